// Rows of JSON lines, with the messages and tools as the very text of the file: parsing and printing them again would
// change long integers and floats.
#pragma once

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/fixtures.h"
#include "trainer/hf/raw_json.h"

namespace qkr::test {

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
