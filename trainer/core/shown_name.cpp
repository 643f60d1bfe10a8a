#include "trainer/core/shown_name.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

bool is_control(char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }

}  // namespace

std::string shown_name(std::string_view name, size_t limit) {
  const bool plain =
      !name.empty() && name.size() <= limit && std::none_of(name.begin(), name.end(), is_control) && is_utf8(name);
  return plain ? std::string(name) : quoted(name, limit);
}

std::string shown_names(const std::vector<std::string>& names, size_t most) {
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(names.size(), most); ++i) shown.push_back(shown_name(names[i]));
  return names.size() > most ? concat(join(shown), " and ", names.size() - most, " more") : join(shown);
}

std::string shown_words(std::string_view text, size_t limit) {
  std::string words(text);
  for (char& c : words) c = is_control(c) ? ' ' : c;
  for (size_t bad = 0; !is_utf8(words, &bad);) words[bad] = '?';
  if (words.size() <= limit) return words;
  size_t end = limit;
  while (end > 0 && (static_cast<unsigned char>(words[end]) & 0xC0u) == 0x80u) --end;  // not within a character
  return words.substr(0, end) + "…";
}

}  // namespace qkr
