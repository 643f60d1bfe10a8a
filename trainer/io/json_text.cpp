#include "trainer/io/json_text.h"

#include <algorithm>
#include <unordered_set>
#include <vector>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"

namespace qkr {
namespace {

class Place {
 public:
  Place(std::string_view text, const std::string& file, int64_t first_line) : text_(text), file_(file), line_(first_line) {}

  // "<file>:<line>:<byte>" of an offset into the text.
  std::string of(size_t offset) const {
    const std::string_view before = text_.substr(0, std::min(offset, text_.size()));
    const int64_t line = line_ + std::count(before.begin(), before.end(), '\n');
    const size_t newline = before.rfind('\n');
    const size_t byte = newline == std::string_view::npos ? before.size() + 1 : before.size() - newline;
    return concat(file_, ":", line, ":", byte);
  }
  std::string of_line() const { return concat(file_, ":", line_); }

 private:
  std::string_view text_;
  const std::string& file_;
  int64_t line_;
};

// Refuses what the parser would let pass: deep nesting, and a key given twice (of which it keeps the last).
class StrictKeys {
 public:
  explicit StrictKeys(const Place& place) : place_(place) {}

  bool operator()(int depth, nlohmann::json::parse_event_t event, const std::string* key) {
    using Event = nlohmann::json::parse_event_t;
    if (depth > kMaxJsonDepth) fail(place_.of_line(), ": must be nested at most ", kMaxJsonDepth, " deep, got more");
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end) keys_.pop_back();
    if (event == Event::key && !keys_.back().insert(*key).second) {
      fail(place_.of_line(), ": must give each key once, got ", quoted(*key), " twice in one object");
    }
    return true;
  }

 private:
  const Place& place_;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

std::string json_complaint(const std::string& message) {
  size_t from = message.find(" - ");
  if (from == std::string::npos) from = message.find("] ") - 1;  // "[json.exception.…] number overflow …"
  from += 3;
  const size_t last_read = message.find("; last read:", from);
  std::string text = message.substr(from, last_read == std::string::npos ? std::string::npos : last_read - from);
  const size_t expected = message.rfind("; expected ");
  if (expected != std::string::npos && last_read != std::string::npos && expected > last_read) text += message.substr(expected);
  return text;
}

template <class Json>
Json parse_json(std::string_view text, const std::string& file, int64_t first_line) {
  const Place place(text, file, first_line);
  size_t bad = 0;
  if (!is_utf8(text, &bad)) {
    fail(place.of(bad), ": must be UTF-8, got byte ", static_cast<unsigned>(static_cast<unsigned char>(text[bad])));
  }
  bad = text.find('\0');  // the parser takes a NUL for the end of its input and would ignore all that follows
  if (bad != std::string_view::npos) fail(place.of(bad), ": must be JSON, got a NUL byte");
  StrictKeys strict(place);
  try {
    return Json::parse(text.begin(), text.end(), [&](int depth, typename Json::parse_event_t event, Json& parsed) {
      const bool is_key = event == Json::parse_event_t::key;
      const auto same = static_cast<nlohmann::json::parse_event_t>(event);
      return strict(depth, same, is_key ? parsed.template get_ptr<const std::string*>() : nullptr);
    });
  } catch (const typename Json::parse_error& error) {
    fail(place.of(error.byte > 0 ? error.byte - 1 : 0), ": must be JSON, got ", json_complaint(error.what()));
  } catch (const typename Json::exception& error) {  // a number beyond double
    fail(place.of_line(), ": must be JSON, got ", json_complaint(error.what()));
  }
}

template <class Json>
Json read_json_file(const std::filesystem::path& path) {
  return parse_json<Json>(read_text_file(path), path.string());
}

template nlohmann::json parse_json(std::string_view, const std::string&, int64_t);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&, int64_t);
template nlohmann::json read_json_file(const std::filesystem::path&);
template nlohmann::ordered_json read_json_file(const std::filesystem::path&);

}  // namespace qkr
