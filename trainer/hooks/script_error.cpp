#include "trainer/hooks/script_error.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "trainer/core/text.h"

namespace qkr {
namespace {

constexpr std::string_view kFile = "File \"", kLine = "\", line ", kError = "RuntimeError: ";

std::string_view first_line(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \n");
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find('\n', begin) - begin);
}

}  // namespace

// Frames are listed outermost first, and those of the original source after those of the serialized code.
ScriptPlace script_place(const std::string& text, const std::string& script) {
  ScriptPlace place;
  for (size_t at = text.find(kFile); at != std::string::npos; at = text.find(kFile, at + 1)) {
    const size_t name = at + kFile.size(), end = text.find(kLine, name);
    if (end == std::string::npos || text.find('\n', name) < end) continue;
    place.file = text.substr(name, end - name);
    place.line = std::atoll(text.c_str() + end + kLine.size());
  }
  if (place.file == "<string>") place.file = script;
  return place;
}

std::string script_reason(const std::string& text) {
  // At run time the reason is the last line, behind the frames; from the compiler it comes first, before "  File".
  const size_t error = text.rfind(kError);
  const std::string_view rest =
      error == std::string::npos ? std::string_view(text) : std::string_view(text).substr(error + kError.size());
  std::string reason(first_line(rest));
  for (const std::string_view end : {" here:", ":"}) {  // what introduced the excerpt
    if (error == std::string::npos && ends_with(reason, end)) reason.resize(reason.size() - end.size());
  }
  return reason.empty() ? "an error without a text" : reason;
}

std::string script_error_line(const std::string& text, const std::string& script, const std::string& method) {
  const ScriptPlace place = script_place(text, script);
  std::string line = place.file.empty() ? script : place.file;
  if (place.line > 0) line += ":" + std::to_string(place.line);
  if (!place.file.empty() && place.file != script) line += " (" + script + ")";
  return line + ": " + (method.empty() ? "" : method + ": ") + script_reason(text);
}

}  // namespace qkr
