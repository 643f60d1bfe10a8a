#include "trainer/probe/haystack.h"

#include <algorithm>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/sentences.h"
#include "trainer/probe/unicode.h"

namespace qkr {

int64_t insert_position(int64_t n, double depth) {
  return static_cast<int64_t>(static_cast<double>(n) * (depth / 100));
}

Haystack::Haystack(std::string_view text, const std::string& name) : name_(name), rule_("plain") {
  index_words(text);
  // Copies are joined by a space and the rule looks no further than the words beside it, so that
  // the second copy shows what every later one has.
  const std::string twice = text_ + " " + text_;
  for (const size_t start : plain_sentence_starts(twice)) {
    if (start < text_.size()) first_starts_.push_back(start);
    if (start > text_.size()) later_starts_.push_back(start - text_.size() - 1);
  }
}

Haystack::Haystack(std::string_view text, const std::string& name,
                   const std::vector<int64_t>& starts, const std::string& rule)
    : name_(name), rule_(rule) {
  index_words(text);
  size_t byte = 0;
  int64_t code_point = 0;
  for (const int64_t start : starts) {
    if (start < code_point || (start == code_point && !first_starts_.empty())) {
      fail(name, ": sentence starts must ascend, got ", start, " after ", code_point);
    }
    for (; code_point < start && byte < text_.size(); ++code_point) next_code_point(text_, &byte);
    if (byte >= text_.size())
      fail(name, ": a sentence must start before the text's end at ", code_point, ", got ", start);
    if (text_[byte] == ' ')
      fail(name, ": a sentence must start at a word, got the space at ", start);
    first_starts_.push_back(byte);
  }
  if (first_starts_.empty() || first_starts_[0] != text_.find_first_not_of(' ')) {
    fail(name, ": the first sentence must start at the first word");
  }
  later_starts_ = first_starts_;  // a new copy begins a sentence
}

void Haystack::index_words(std::string_view given) {
  size_t bad_byte = 0;
  if (!is_utf8(given, &bad_byte)) fail(name_, ": byte ", bad_byte, " must be UTF-8 text");
  digest_ = sha256_hex(given);
  text_ = collapse_white_space(given);
  if (text_.empty() || text_ == " ") fail(name_, ": must hold words, got none");
  for (size_t space = text_.find(' '); space != std::string::npos;
       space = text_.find(' ', space + 1)) {
    word_ends_.push_back(space);
  }
  word_ends_.push_back(text_.size());
}

// Copy c of the text begins at byte c * (size + 1) of the repeated text.
size_t Haystack::prefix_bytes(int64_t num_words) const {
  const size_t copies = static_cast<size_t>(num_words / words()),
               rest = static_cast<size_t>(num_words % words());
  const size_t whole = copies * (text_.size() + 1);
  return rest > 0 ? whole + word_ends_[rest - 1] : copies > 0 ? whole - 1 : 0;
}

int64_t Haystack::starts_before(size_t offset) const {
  const auto below = [](const std::vector<size_t>& starts, size_t limit) {
    return static_cast<int64_t>(std::lower_bound(starts.begin(), starts.end(), limit) -
                                starts.begin());
  };
  const size_t copy = offset / (text_.size() + 1), rest = offset % (text_.size() + 1);
  if (copy == 0) return below(first_starts_, rest);
  const int64_t full =
      static_cast<int64_t>(first_starts_.size() + (copy - 1) * later_starts_.size());
  return full + below(later_starts_, rest);
}

size_t Haystack::start_of(int64_t sentence) const {
  const size_t at = static_cast<size_t>(sentence);
  if (at < first_starts_.size()) return first_starts_[at];
  const size_t later = at - first_starts_.size();
  return (1 + later / later_starts_.size()) * (text_.size() + 1) +
         later_starts_[later % later_starts_.size()];
}

void Haystack::append(std::string* out, size_t begin, size_t end) const {
  while (begin < end) {
    const size_t at = begin % (text_.size() + 1);
    if (at == text_.size()) {
      out->push_back(' ');
      ++begin;
      continue;
    }
    const size_t count = std::min(end - begin, text_.size() - at);
    out->append(text_, at, count);
    begin += count;
  }
}

int64_t Haystack::sentences_in(int64_t num_words) const {
  return starts_before(prefix_bytes(num_words));
}

std::string Haystack::join_words(int64_t first, int64_t last) const {
  std::string out;
  if (first >= last) return out;
  append(&out, first == 0 ? 0 : prefix_bytes(first) + 1, prefix_bytes(last));
  return out;
}

// Sentences [first, last) joined by single spaces; the text ends at `length`. White space at a
// sentence's end falls away.
std::string Haystack::joined(int64_t first, int64_t last, size_t length) const {
  std::string out;
  const int64_t all = starts_before(length);
  for (int64_t s = first; s < last; ++s) {
    if (s > first) out.push_back(' ');
    append(&out, start_of(s), s + 1 < all ? start_of(s + 1) : length);
    while (!out.empty() && out.back() == ' ') out.pop_back();
  }
  return out;
}

Context Haystack::with_needle(int64_t num_words, double depth, std::string_view needle) const {
  return with_needles(num_words, {{depth, std::string(needle)}});
}

Context Haystack::with_needles(int64_t num_words, const std::vector<DepthText>& needles) const {
  if (num_words < 1) fail(name_, ": num_haystack must be at least 1 word, got ", num_words);
  if (needles.empty()) fail(name_, ": must be given a needle, got none");
  double shallowest = 0;
  for (const DepthText& needle : needles) {
    if (!(needle.depth >= shallowest && needle.depth <= 100))
      fail(name_, ": depth must be in ", shallowest, " .. 100 percent, got ", needle.depth);
    shallowest = needle.depth;
  }
  const size_t length = prefix_bytes(num_words);
  Context context;
  context.sentences = starts_before(length);
  context.insert_at = insert_position(context.sentences, needles[0].depth);
  int64_t done = 0;
  for (const DepthText& needle : needles) {
    const int64_t here = insert_position(context.sentences, needle.depth);
    context.text += joined(done, here, length);
    context.text.push_back(' ');  // also at depth 0: RULER joins an empty part
    if (&needle == &needles[0]) context.needle_at = context.text.size();
    context.text.append(needle.text);
    context.text.push_back(' ');
    done = here;
  }
  context.text += joined(done, context.sentences, length);
  return context;
}

}  // namespace qkr
