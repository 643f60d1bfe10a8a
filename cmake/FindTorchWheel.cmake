# Finds LibTorch at QKR_TORCH_DIR (QkrPython.cmake) inside a Python environment, and gives QKR_SITE_DIR.
# Torch's own CMake package then does the rest. The include directories become system ones, so that our warnings stay ours.
get_filename_component(QKR_SITE_DIR ${QKR_TORCH_DIR} DIRECTORY)
list(PREPEND CMAKE_PREFIX_PATH ${QKR_TORCH_DIR}/share/cmake)
find_package(Torch 2.11 REQUIRED)
if(NOT Torch_VERSION VERSION_LESS 2.12)
  message(FATAL_ERROR "torch ${Torch_VERSION} found; qk-restore is built for 2.11 (the C++ ABI changes with every minor)")
endif()
