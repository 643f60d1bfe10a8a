# `cmake --install` and cpack. Components: runtime (programs, libraries), devel (headers, CMake package, examples); python is cmake/wheel.cmake's.
# Everything is found relative to where it lies, so that an installed tree may be moved. Torch is not installed: programs find it through
# share/qk_restore/env.sh, consumers through their own find_package(Torch) or the wheel (qk_restoreConfig.cmake).
include(CMakePackageConfigHelpers)

# The trainer as one shared library: qk_restore::trainer. What it is made of and what is not ours stays inside.
add_library(qk_restore_trainer SHARED ${PROJECT_SOURCE_DIR}/trainer/apps/embed.cpp)
target_compile_options(qk_restore_trainer PRIVATE ${QKR_WARNINGS})
foreach(archive libcrypto.a libyaml-cpp.a libqkr_hf_rust.a)  # one by one: mold 1.10 never ends on a list
  target_link_options(qk_restore_trainer PRIVATE LINKER:--exclude-libs,${archive})
endforeach()
target_link_libraries(qk_restore_trainer PRIVATE qkr_apps)
# Of the other rooms what fine_tune() calls is inside; of this one everything that its headers declare.
set_target_properties(qk_restore_trainer PROPERTIES LINK_LIBRARY_OVERRIDE_qkr_config WHOLE_ARCHIVE)
qkr_use_torch(qk_restore_trainer)

set_target_properties(qk_restore_ops qk_restore_trainer PROPERTIES INSTALL_RPATH "$ORIGIN")
set_target_properties(sft-train niah-probe qk-restore PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
install(TARGETS sft-train niah-probe qk-restore RUNTIME DESTINATION bin COMPONENT runtime)
install(TARGETS qk_restore_ops qk_restore_trainer LIBRARY DESTINATION lib COMPONENT runtime)
# Debian's yaml-cpp archive is not position-independent, so the shared library needs the shared one: carried along.
get_target_property(yaml_type ${QKR_YAML_TARGET} TYPE)
if(yaml_type STREQUAL "SHARED_LIBRARY")
  install(FILES $<TARGET_FILE:${QKR_YAML_TARGET}> DESTINATION lib RENAME $<TARGET_SONAME_FILE_NAME:${QKR_YAML_TARGET}> COMPONENT runtime)
endif()
install(PROGRAMS cmake/env.sh DESTINATION share/qk_restore COMPONENT runtime)
install(FILES LICENSE README.md CHANGELOG.md DESTINATION share/doc/qk-restore COMPONENT runtime)
install(DIRECTORY configs DESTINATION share/qk_restore COMPONENT runtime)

# Headers keep their paths from the root, under include/qk_restore; the facade has a name of its own.
set(include include/qk_restore)
install(FILES trainer/apps/embed.h DESTINATION ${include} RENAME fine_tune.h COMPONENT devel)
install(FILES trainer/config/parse.h trainer/config/run_config.h DESTINATION ${include}/trainer/config COMPONENT devel)
install(FILES trainer/core/error.h trainer/core/hook_state.h trainer/core/named_tensors.h trainer/core/train_state.h DESTINATION ${include}/trainer/core COMPONENT devel)
install(FILES trainer/loop/hook.h DESTINATION ${include}/trainer/loop COMPONENT devel)
install(DIRECTORY ops/ DESTINATION ${include}/ops COMPONENT devel FILES_MATCHING PATTERN "*.h" PATTERN python EXCLUDE)
install(DIRECTORY examples/embed examples/hooks DESTINATION share/qk_restore/examples COMPONENT devel PATTERN __pycache__ EXCLUDE)

set(package ${PROJECT_BINARY_DIR}/package)
set(QKR_HAS_CUDA ${QKR_CUDA})
configure_file(cmake/qk_restoreConfig.cmake.in ${package}/qk_restoreConfig.cmake @ONLY)
write_basic_package_version_file(${package}/qk_restoreConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${package}/qk_restoreConfig.cmake ${package}/qk_restoreConfigVersion.cmake DESTINATION lib/cmake/qk_restore COMPONENT devel)

# cpack: one .deb and one .tar.gz of both components.
set(CPACK_GENERATOR DEB TGZ)
set(CPACK_PACKAGE_NAME qk-restore)
set(CPACK_PACKAGE_VENDOR "qk-restore")
set(CPACK_PACKAGE_CONTACT "qk-restore maintainers <maintainers@qk-restore.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Fine-tune hybrid language models without losing long-context recall")
set(CPACK_PACKAGE_DESCRIPTION "sft-train, niah-probe, qk-restore, the operators for Torch, and a CMake package. Needs torch 2.11 from its wheel (pip), which is no Debian package.")
set(CPACK_COMPONENTS_ALL runtime devel)
set(CPACK_COMPONENTS_GROUPING ALL_COMPONENTS_IN_ONE)
set(CPACK_ARCHIVE_COMPONENT_INSTALL ON)
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_STRIP_FILES ON)
set(CPACK_PACKAGING_INSTALL_PREFIX /opt/qk-restore)  # its libraries are not for the whole system
# What it is built with: Debian 12 has glibc 2.36 and GCC 12, Ubuntu 24.04 2.39 and 13.
execute_process(COMMAND getconf GNU_LIBC_VERSION OUTPUT_VARIABLE libc COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCH "[0-9.]+" libc "${libc}")
string(REGEX MATCH "^[0-9]+" libstdcxx "${CMAKE_CXX_COMPILER_VERSION}")
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6 (>= ${libc}), libstdc++6 (>= ${libstdcxx}), libgcc-s1")
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "python3, python3-venv")
set(CPACK_DEBIAN_PACKAGE_SECTION science)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
include(CPack)
