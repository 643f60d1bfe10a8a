#include "trainer/io/json_lines.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/json_text.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

// Where the whole lines of the file end: after the last newline, or at the end if what follows it is a whole value.
struct Tail {
  size_t good_bytes = 0;
  bool needs_newline = false;
};

Tail examine_tail(const fs::path& path) {
  const MappedFile map(path);
  const std::string_view bytes = map.bytes();
  const size_t newline = bytes.rfind('\n');
  const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
  if (start == bytes.size()) return {bytes.size(), false};
  try {
    parse_json(bytes.substr(start), path.string());
    return {bytes.size(), true};
  } catch (const Error&) {
    return {start, false};
  }
}

void cut_file(const fs::path& path, size_t bytes) {
  if (::truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) {
    fail(path.string(), ": must be writable, got ", std::strerror(errno));
  }
}

}  // namespace

JsonLinesWriter::JsonLinesWriter(fs::path path) : path_(std::move(path)) {
  Tail tail;
  std::error_code ignored;  // what is wrong with the path, open() says
  if (fs::exists(path_, ignored)) {
    tail = examine_tail(path_);
    if (tail.good_bytes < fs::file_size(path_)) cut_file(path_, tail.good_bytes);
  }
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(path_.string(), ": must be writable, got ", std::strerror(errno));
  if (tail.needs_newline) write_line("");
}

JsonLinesWriter::~JsonLinesWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void JsonLinesWriter::write_line(std::string line) {
  line += '\n';
  write_all(fd_, line, path_);
}

JsonLinesReader::JsonLinesReader(fs::path path, JsonLinesOptions options)
    : file_(path.string()), options_(options), map_(path) {}

bool JsonLinesReader::next() {
  const std::string_view bytes = map_.bytes();
  while (next_offset_ < bytes.size()) {
    const size_t start = next_offset_;
    const size_t newline = bytes.find('\n', start);
    const bool is_torn = newline == std::string_view::npos;
    const size_t end = is_torn ? bytes.size() : newline;
    text_ = bytes.substr(start, end - start);
    ++line_;
    if (text_.size() > options_.max_line_bytes) {
      fail(file_, ":", line_, ": must be at most ", human_bytes(static_cast<int64_t>(options_.max_line_bytes)), " long, got ",
           human_bytes(static_cast<int64_t>(text_.size())));
    }
    if (!is_blank(text_)) {
      try {
        row_ = parse_json(text_, file_, line_);
      } catch (const Error&) {
        if (!is_torn || !options_.allow_torn_end) throw;
        --line_;
        return false;  // end_offset() stays before the torn line
      }
      next_offset_ = is_torn ? end : end + 1;
      return true;
    }
    next_offset_ = is_torn ? end : end + 1;
  }
  return false;
}

int64_t keep_lines_while(const fs::path& path, const std::function<bool(const nlohmann::json&)>& keep) {
  std::error_code ignored;
  if (!fs::exists(path, ignored) && !ignored) return 0;
  int64_t kept = 0;
  size_t good_bytes = 0;
  {
    JsonLinesReader reader(path, {.allow_torn_end = true});
    try {
      while (reader.next() && keep(reader.row())) {
        ++kept;
        good_bytes = reader.end_offset();
      }
    } catch (const nlohmann::json::exception& error) {  // keep() asked for what the row has not
      fail(reader.file(), ":", reader.line(), ": must be a row that a run has written, got ", json_complaint(error.what()));
    }
  }  // unmapped before the file shrinks
  if (good_bytes < fs::file_size(path)) cut_file(path, good_bytes);
  return kept;
}

}  // namespace qkr
