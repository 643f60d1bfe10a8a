// Rows of JSON lines, with the messages and tools as the very text of the file: parsing and printing them again would
// change long integers and floats.
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/fixtures.h"
namespace qkr::test {

inline bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

inline size_t skip_space(std::string_view text, size_t at) {
  while (at < text.size() && is_space(text[at])) ++at;
  return at;
}

// `at` is on an opening quote; the result is just after the closing one.
inline size_t skip_string(std::string_view text, size_t at) {
  for (++at; at < text.size() && text[at] != '"'; ++at) {
    if (text[at] == '\\') ++at;
  }
  return at < text.size() ? at + 1 : text.size();
}

// Just after the value that begins at `at`: at the comma or bracket that follows it.
inline size_t skip_value(std::string_view text, size_t at) {
  int depth = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (c == '"') {
      at = skip_string(text, at);
      continue;
    }
    if (depth == 0 && (c == ',' || c == '}' || c == ']')) break;
    if (c == '{' || c == '[') ++depth;
    if (c == '}' || c == ']') --depth;
    ++at;
  }
  return at;
}

// The text of the value under `key` of a well-formed JSON object, or "" if there is none.
inline std::string_view raw_member(std::string_view object, std::string_view key) {
  std::string_view found;
  size_t at = skip_space(object, 0);
  if (at >= object.size() || object[at] != '{') return found;
  at = skip_space(object, at + 1);
  while (at < object.size() && object[at] == '"') {
    const size_t name_end = skip_string(object, at);
    const std::string_view name = object.substr(at + 1, name_end - at - 2);
    at = skip_space(object, name_end);
    if (at >= object.size() || object[at] != ':') return found;
    const size_t begin = skip_space(object, at + 1);
    const size_t end = skip_value(object, begin);
    if (name == key) {
      found = object.substr(begin, end - begin);
      while (!found.empty() && is_space(found.back())) found.remove_suffix(1);
    }
    at = end < object.size() && object[end] == ',' ? skip_space(object, end + 1) : object.size();
  }
  return found;
}

struct Row {
  std::string text;     // the line
  nlohmann::json json;  // the same, parsed

  std::string raw(std::string_view key) const {
    const std::string_view value = raw_member(text, key);
    return value.empty() ? "null" : std::string(value);
  }
};

inline std::vector<Row> read_rows(const fs::path& path) {
  std::vector<Row> rows;
  std::istringstream in(read_file(path));
  for (std::string line; std::getline(in, line);) {
    if (!line.empty()) rows.push_back({line, nlohmann::json::parse(line)});
  }
  return rows;
}

inline fs::path data_dir() { return source_dir() / "tests" / "data" / "chat"; }

}  // namespace qkr::test
