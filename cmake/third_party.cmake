# Everything that is not ours, as targets. What is missing is named with what installs it; nothing is downloaded here.
function(qkr_find package debian)
  find_package(${package} QUIET ${ARGN})
  if(NOT ${package}_FOUND)
    set(QKR_MISSING ${QKR_MISSING} ${package} PARENT_SCOPE)
    set(QKR_MISSING_PACKAGES "${QKR_MISSING_PACKAGES} ${debian}" PARENT_SCOPE)
  endif()
endfunction()
function(qkr_need_found)
  if(QKR_MISSING)
    list(JOIN QKR_MISSING ", " names)
    message(FATAL_ERROR "missing: ${names}: apt-get install${QKR_MISSING_PACKAGES} (or run `make deps`)")
  endif()
endfunction()
function(qkr_need package debian)
  qkr_find(${package} "${debian}" ${ARGN})
  qkr_need_found()
endfunction()

find_package(Threads REQUIRED)
qkr_find(nlohmann_json nlohmann-json3-dev)
qkr_find(CLI11 libcli11-dev)
qkr_find(yaml-cpp libyaml-cpp-dev)
set(OPENSSL_USE_STATIC_LIBS ON)
qkr_find(OpenSSL libssl-dev)
qkr_need_found()  # all at once

# The static archive, so that a binary built here runs where another yaml-cpp is installed. It is not position-independent (Debian 12):
# shared libraries take the shared one, which the wheel then carries along.
find_library(QKR_YAML_CPP_ARCHIVE NAMES libyaml-cpp.a)
set(QKR_YAML_TARGET yaml-cpp)  # its name before 0.8
if(TARGET yaml-cpp::yaml-cpp)
  set(QKR_YAML_TARGET yaml-cpp::yaml-cpp)
endif()
add_library(qkr_yaml INTERFACE)
if(QKR_YAML_CPP_ARCHIVE)
  target_link_libraries(qkr_yaml INTERFACE
    $<IF:$<STREQUAL:$<TARGET_PROPERTY:TYPE>,SHARED_LIBRARY>,${QKR_YAML_TARGET},${QKR_YAML_CPP_ARCHIVE}>)
else()
  target_link_libraries(qkr_yaml INTERFACE ${QKR_YAML_TARGET})
endif()

# Torch as a system include. libtorch_cuda is found by the loader; nothing of ours refers to it but ops.
add_library(qkr_torch INTERFACE)
target_include_directories(qkr_torch SYSTEM INTERFACE ${TORCH_INCLUDE_DIRS})
# libstdc++ first: the wheel's libtorch exports a std::filesystem of its own, and a program that finds that one first crashes in
# remove_all.
target_link_libraries(qkr_torch INTERFACE -Wl,--push-state,--no-as-needed -lstdc++ -Wl,--pop-state ${TORCH_LIBRARIES})
target_compile_options(qkr_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-unused-parameter>)

file(WRITE ${PROJECT_BINARY_DIR}/pch/empty.cpp "namespace qkr {}\n")
add_library(qkr_pch OBJECT ${PROJECT_BINARY_DIR}/pch/empty.cpp)
target_link_libraries(qkr_pch PUBLIC qkr_torch)
target_compile_options(qkr_pch PRIVATE ${QKR_WARNINGS})
target_precompile_headers(qkr_pch PRIVATE
  <torch/types.h> <torch/csrc/autograd/custom_function.h> <torch/library.h> <nlohmann/json.hpp>
  <algorithm> <cmath> <filesystem> <functional> <map> <optional> <string> <vector>)
set(CMAKE_BUILD_RPATH ${QKR_TORCH_DIR}/lib)
file(GLOB nvidia_libs ${QKR_SITE_DIR}/nvidia/*/lib)
list(APPEND CMAKE_BUILD_RPATH ${nvidia_libs})
