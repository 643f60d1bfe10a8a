// JSON lines: one JSON value a line. Written so that a killed process can tear the last line only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "trainer/io/mapped_file.h"

namespace qkr {

// Appends. Each row reaches the operating system as one write() before write_row returns; it is not fsynced.
class JsonLinesWriter {
 public:
  // Makes the file if it is absent. A torn last line of an earlier process is cut off first.
  explicit JsonLinesWriter(std::filesystem::path path);
  ~JsonLinesWriter();
  JsonLinesWriter(const JsonLinesWriter&) = delete;
  JsonLinesWriter& operator=(const JsonLinesWriter&) = delete;

  // NaN and infinity become null (JSON has no others); malformed UTF-8 in strings becomes U+FFFD.
  void write_row(const nlohmann::json& row) { write_line(dump(row)); }
  void write_row(const nlohmann::ordered_json& row) { write_line(dump(row)); }

 private:
  template <class Json>
  static std::string dump(const Json& row) {
    return row.dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  void write_line(std::string line);

  std::filesystem::path path_;
  int fd_ = -1;
};

struct JsonLinesOptions {
  bool allow_torn_end = false;         // a last line without a newline that is no JSON: the end, not an error
  size_t max_line_bytes = size_t{1} << 28;
};

// Reads in order. Lines of white space are skipped (and counted). Errors are "<file>:<line>:<byte>: ...".
class JsonLinesReader {
 public:
  explicit JsonLinesReader(std::filesystem::path path, JsonLinesOptions options = {});

  // Moves to the next row; false at the end.
  bool next();
  const nlohmann::json& row() const { return row_; }     // the parsed line
  std::string_view text() const { return text_; }        // the same as written (key order!), without its newline
  int64_t line() const { return line_; }                 // from 1
  size_t end_offset() const { return next_offset_; }     // of the first byte after the line and its newline
  const std::string& file() const { return file_; }

 private:
  std::string file_;
  JsonLinesOptions options_;
  MappedFile map_;
  size_t next_offset_ = 0;
  int64_t line_ = 0;
  std::string_view text_;
  nlohmann::json row_;
};

// Keeps the leading rows for which keep(row) is true and cuts the file before the first other one (or torn end); for a resume,
// which does again what was logged after its checkpoint. Returns the rows kept; an absent file has none.
// Error naming the line of a row that keep() cannot read.
int64_t keep_lines_while(const std::filesystem::path& path, const std::function<bool(const nlohmann::json&)>& keep);

}  // namespace qkr
