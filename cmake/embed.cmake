# Text files as constants of a .cpp: cmake -DOUTPUT=x.cpp -DHEADER=a/b.h -DFILES="name=path;name=path" -P cmake/embed.cmake
# HEADER declares them as `extern const std::string_view <name>` in namespace qkr.
set(code "#include \"${HEADER}\"\n\nnamespace qkr {\n")
foreach(entry ${FILES})
  string(REGEX MATCH "^([a-z_0-9]+)=(.+)$" _ "${entry}")
  set(name ${CMAKE_MATCH_1})
  set(path ${CMAKE_MATCH_2})
  file(READ "${path}" text)
  # These end up inside <script> or <style>, and inside a raw string literal.
  if(text MATCHES "</script|</style|<!--|\\)embed\"")
    message(FATAL_ERROR "${path}: must not hold </script, </style, <!-- or )embed\"")
  endif()
  string(APPEND code "\nconst std::string_view ${name} = R\"embed(${text})embed\";\n")
endforeach()
string(APPEND code "\n}  // namespace qkr\n")
file(WRITE "${OUTPUT}" "${code}")
