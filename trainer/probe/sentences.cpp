#include "trainer/probe/sentences.h"

#include <algorithm>
#include <iterator>

#include "trainer/probe/unicode.h"

namespace qkr {
namespace {

constexpr std::string_view kTitles[] = {"Mr",     "Mrs", "Dr",   "St",  "Prof", "Gen",  "Ms",
                                        "Messrs", "Mme", "Mlle", "Rev", "Hon",  "Capt", "Col",
                                        "Lt",     "Sgt", "Maj",  "Sr",  "Jr"};

bool is_end_mark(char c) { return c == '.' || c == '!' || c == '?'; }

// Closing quotes and brackets: ASCII, and U+2019, U+201D, U+00BB.
size_t skip_closers(std::string_view text, size_t at) {
  constexpr std::string_view closers[] = {"\"",           "'",       ")", "]", "\xE2\x80\x99",
                                          "\xE2\x80\x9D", "\xC2\xBB"};
  for (bool found = true; found;) {
    found = false;
    for (const std::string_view closer : closers) {
      if (text.substr(at, closer.size()) != closer) continue;
      at += closer.size();
      found = true;
    }
  }
  return at;
}

bool is_word_character(uint32_t c) {
  if (c >= 0x80)
    return !(c >= 0x2010 && c <= 0x203A) && c != 0xAB &&
           c != 0xBB;  // general punctuation, guillemets
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
}

// The word that ends at `end`, what stands before its first letter or digit left out.
std::string_view word_before(std::string_view text, size_t end) {
  const size_t space = end == 0 ? std::string_view::npos : text.rfind(' ', end - 1);
  size_t begin = space == std::string_view::npos ? 0 : space + 1;
  while (begin < end) {
    size_t behind = begin;
    if (is_word_character(next_code_point(text, &behind))) break;
    begin = behind;
  }
  return text.substr(begin, end - begin);
}

// A word after which a full stop seldom ends a sentence: an initial or a title.
bool is_abbreviation(std::string_view word) {
  if (std::find(std::begin(kTitles), std::end(kTitles), word) != std::end(kTitles)) return true;
  size_t behind = 0;
  if (word.empty()) return false;
  const uint32_t c = next_code_point(word, &behind);
  return behind == word.size() && c != '_' && !(c >= '0' && c <= '9');
}

}  // namespace

std::vector<size_t> plain_sentence_starts(std::string_view text) {
  std::vector<size_t> starts;
  const size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return starts;
  starts.push_back(first);
  for (size_t mark = text.find_first_of(".!?", first); mark != std::string_view::npos;) {
    size_t behind = mark;
    while (behind < text.size() && is_end_mark(text[behind])) ++behind;
    const size_t close = skip_closers(text, behind);
    const size_t next = close < text.size() && text[close] == ' '
                            ? text.find_first_not_of(' ', close)
                            : std::string_view::npos;
    if (next != std::string_view::npos) {
      size_t ignored = next;
      if (!is_lower_case(next_code_point(text, &ignored)) &&
          !is_abbreviation(word_before(text, mark)))
        starts.push_back(next);
    }
    mark = text.find_first_of(".!?", behind);
  }
  return starts;
}

}  // namespace qkr
