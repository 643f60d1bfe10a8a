#include "trainer/data/json_members.h"

#include <algorithm>

namespace qkr {
namespace {

// Walks valid JSON; never past its end, whatever it is given.
class Walker {
 public:
  explicit Walker(std::string_view text) : text_(text) {}

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  size_t at() const { return at_; }
  bool at_end() const { return at_ >= text_.size(); }
  void step() { ++at_; }

  void skip_to(char wanted) {
    while (!at_end() && peek() != wanted) step();
  }
  void skip_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\r' || peek() == '\n') step();
  }

  // At a quote: past the closing one. Returns what stands between.
  std::string_view string() {
    step();
    const size_t begin = at_;
    while (!at_end() && peek() != '"') at_ += peek() == '\\' ? 2 : 1;
    const std::string_view inside = text_.substr(begin, at_ - begin);
    step();
    return inside;
  }

  // Past one value of any kind: up to the comma or bracket that ends it at its own level.
  void value() {
    for (int depth = 0; !at_end();) {
      const char c = peek();
      if (c == '"') {
        string();
        continue;
      }
      if (depth == 0 && (c == ',' || c == '}' || c == ']')) return;
      depth += c == '{' || c == '[' ? 1 : c == '}' || c == ']' ? -1 : 0;
      step();
    }
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

std::string_view without_tail_space(std::string_view text) {
  const size_t last = text.find_last_not_of(" \t\r\n");
  return text.substr(0, last == std::string_view::npos ? 0 : last + 1);
}

}  // namespace

std::vector<std::pair<std::string, std::string_view>> json_members(std::string_view line) {
  std::vector<std::pair<std::string, std::string_view>> members;
  Walker walker(line);
  walker.skip_to('{');
  while (!walker.at_end()) {
    walker.skip_to('"');
    if (walker.at_end()) break;  // an empty object, or the end of this one
    const std::string_view key = walker.string();
    walker.skip_to(':');
    walker.step();
    walker.skip_space();
    const size_t begin = walker.at();
    walker.value();
    const std::string_view value = line.substr(std::min(begin, line.size()), walker.at() - begin);
    if (key.find('\\') == std::string_view::npos) members.emplace_back(key, without_tail_space(value));
    if (walker.peek() != ',') break;
  }
  return members;
}

std::string_view json_member(std::string_view line, std::string_view key, std::string_view otherwise) {
  for (const auto& [name, value] : json_members(line)) {
    if (name == key) return value;
  }
  return otherwise;
}

}  // namespace qkr
