// The text that needles are hidden in (niah_single_2 and 3): white space collapsed, cut in words
// and sentences once, then any "first N words with a sentence put in" in one copy. RULER's rules; N
// beyond the text repeats it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

// The middle part of a prompt. Offsets are bytes into `text`.
struct Context {
  std::string text;
  size_t needle_at = 0;   // of the first needle
  int64_t sentences = 0;  // of the first N words, before the needles came in
  int64_t insert_at = 0;  // int(sentences * (depth / 100)): the first needle stands before this one
};

struct DepthText {
  double depth = 0;  // percent
  std::string text;
};

class Haystack {
 public:
  // Sentences by the plain rule: one ends at [.!?]+ and closing quotes or brackets before a space,
  // unless the next character is a lower-case letter or the word is a single letter or a title (Mr,
  // Dr, St, ...). `name` is what records and errors call it. Error: not UTF-8, or nothing but white
  // space.
  Haystack(std::string_view text, const std::string& name);

  // Sentences where `starts` says, in code points of the collapsed text, ascending from the first
  // word; `rule` names where they are from. A start inside a word is allowed: joining the sentences
  // then adds a space, as RULER does.
  Haystack(std::string_view text, const std::string& name, const std::vector<int64_t>& starts,
           const std::string& rule);

  const std::string& name() const { return name_; }
  const std::string& digest() const { return digest_; }  // SHA-256 of the text as it was given
  const std::string& rule() const { return rule_; }      // "plain", or the name given
  const std::string& text() const { return text_; }      // collapsed
  int64_t words() const { return static_cast<int64_t>(word_ends_.size()); }
  // Byte offsets into text() where sentences begin, the first one included.
  const std::vector<size_t>& sentence_starts() const { return first_starts_; }

  // Sentences that begin within the first `num_words` words of the repeated text.
  int64_t sentences_in(int64_t num_words) const;

  // Words [first, last) of the repeated text, joined by spaces.
  std::string join_words(int64_t first, int64_t last) const;

  // Error: num_words below 1, depth (percent) outside 0 .. 100.
  Context with_needle(int64_t num_words, double depth, std::string_view needle) const;
  // Several, by ascending depth. Between two that come to the same sentence stands an empty part, that
  // is two spaces, as in RULER. Error also: none, a depth below the one before it.
  Context with_needles(int64_t num_words, const std::vector<DepthText>& needles) const;

 private:
  void index_words(std::string_view given);
  size_t prefix_bytes(int64_t num_words) const;  // length of the first words joined, not stripped
  int64_t starts_before(size_t offset) const;    // in the repeated text
  size_t start_of(int64_t sentence) const;
  void append(std::string* out, size_t begin, size_t end) const;  // bytes of the repeated text
  std::string joined(int64_t first, int64_t last, size_t length) const;

  std::string name_, digest_, rule_, text_;
  std::vector<size_t> word_ends_;
  std::vector<size_t> first_starts_;  // of the first copy
  std::vector<size_t> later_starts_;  // of every later copy, from that copy's first byte
};

// int(n * (depth / 100)) in double arithmetic, as Python computes it: 150 at depth 82 is 122, in
// integers it would be 123.
int64_t insert_position(int64_t n, double depth);

}  // namespace qkr
