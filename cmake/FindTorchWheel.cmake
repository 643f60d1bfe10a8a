# Finds LibTorch inside the Python environment that `make deps` made, and gives QKR_TORCH_DIR, QKR_SITE_DIR.
# Torch's own CMake package then does the rest. The include directories become system ones, so that our warnings stay ours.
execute_process(
  COMMAND ${QKR_PYTHON} -c "import importlib.util as u, os; print(os.path.dirname(u.find_spec('torch').origin))"
  OUTPUT_VARIABLE QKR_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE RESULT_VARIABLE status ERROR_QUIET)
if(NOT status EQUAL 0)
  message(FATAL_ERROR "${QKR_PYTHON} has no torch: run `make deps`, or set -DQKR_PYTHON=/path/to/python with torch 2.11")
endif()
get_filename_component(QKR_SITE_DIR ${QKR_TORCH_DIR} DIRECTORY)
list(PREPEND CMAKE_PREFIX_PATH ${QKR_TORCH_DIR}/share/cmake)
find_package(Torch 2.11 REQUIRED)
if(NOT Torch_VERSION VERSION_LESS 2.12)
  message(FATAL_ERROR "torch ${Torch_VERSION} found; qk-restore is built for 2.11 (the C++ ABI changes with every minor)")
endif()
