# How a room becomes a library. A new file in a room needs no line anywhere: the room's folder is its list of sources.
include_guard()
set(QKR_WARNINGS -Wall -Wextra -Wshadow -Wno-restrict -Wno-array-bounds -Wno-stringop-overflow -Wno-stringop-overread)  # GCC 12 false alarms in std::string
# Errors only where the list above was made for: another compiler's new warning must not stop anybody's first build.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION MATCHES "^12\\.")
  list(APPEND QKR_WARNINGS -Werror)
endif()
if(QKR_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${QKR_SANITIZE}> $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=${QKR_SANITIZE})
endif()

# The one precompiled header of all units that see Torch; made once (20 s), then 2 s a unit instead of 8 to 35.
function(qkr_use_torch target)
  target_link_libraries(${target} PUBLIC qkr_torch)
  target_precompile_headers(${target} REUSE_FROM qkr_pch)
endfunction()

# qkr_room(<name> [TORCH] [LIBS <targets>]): trainer/<name>/*.cpp as the static library qkr_<name>.
function(qkr_room name)
  cmake_parse_arguments(ARG "TORCH" "" "LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/trainer/${name}/*.cpp)
  if(NOT sources)
    add_library(qkr_${name} INTERFACE)
    target_link_libraries(qkr_${name} INTERFACE ${ARG_LIBS})
    return()
  endif()
  add_library(qkr_${name} STATIC ${sources})
  target_compile_options(qkr_${name} PRIVATE ${QKR_WARNINGS})
  target_link_libraries(qkr_${name} PUBLIC ${ARG_LIBS})
  if(ARG_TORCH)
    qkr_use_torch(qkr_${name})
  endif()
endfunction()
