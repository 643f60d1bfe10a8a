#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <cctype>
#include <set>

namespace qkr::fuzz {
namespace {

constexpr size_t kMostWords = 4000;

// Where readers of numbers, names and text go wrong.
constexpr std::string_view kHostile =
    "0 -0 -1 1 2 00 1e308 -1e308 1e309 1e-400 0.1 1. .5 +1 0x10 1_000 NaN nan inf -inf 127 256 65536 2147483647 "
    "2147483648 -2147483649 4294967296 9007199254740993 4611686018427387904 9223372036854775807 9223372036854775808 "
    "-9223372036854775808 -9223372036854775809 18446744073709551615 18446744073709551616 "
    "99999999999999999999999999999999 1e18 1e19 1e30 null true false yes ~ \"\" [] {} [[]] [null] {\"a\":1} \"a\\nb\" "
    "\"\\u0000\" \"\\u001b[31m\" \"\\r\" \"\\ud83d\\ude00\" \"\\ud800\" \"<script>\" \"</script>\" \"..\" \".\" "
    "\"../x\" \"a/b\" \"/etc/passwd\" \"1e999\" \"\U0001F600\" \"\u2028\" \xFF \xC3 \xED\xA0\x80 \\ \\n \" ' : , [ ] { "
    "} # *a | > ... % @ `";

const std::vector<std::string>& hostile_words() {
  static const std::vector<std::string> kWords = [] {
    std::vector<std::string> words = {std::string(1, '\0'), "\n",  "\r\n", "\t", "&a ", "!!str ", "!x ", "---\n", "? ",
                                      "- ",                 "\x7f"};
    for (const size_t length : {300, 3000}) words.push_back('"' + std::string(length, 'n') + '"');
    for (size_t begin = 0, end = 0; begin < kHostile.size(); begin = end + 1) {
      end = std::min(kHostile.find(' ', begin), kHostile.size());
      words.emplace_back(kHostile.substr(begin, end - begin));
    }
    return words;
  }();
  return kWords;
}

bool is_word_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-' || c == '+';
}

size_t token_end(std::string_view text, size_t at) {
  const char first = text[at];
  size_t end = at + 1;
  if (first == '"' || first == '\'') {
    while (end < text.size() && text[end] != first && text[end] != '\n') end += text[end] == '\\' ? 2 : 1;
    return std::min(end + 1, text.size());
  }
  const auto same_kind = [&](char c) {
    return std::isspace(static_cast<unsigned char>(first)) ? std::isspace(static_cast<unsigned char>(c)) != 0
                                                           : is_word_character(c);
  };
  if (!std::isspace(static_cast<unsigned char>(first)) && !is_word_character(first)) return end;
  while (end < text.size() && same_kind(text[end])) ++end;
  return end;
}

}  // namespace

std::vector<std::string_view> tokens_of(std::string_view text) {
  std::vector<std::string_view> tokens;
  for (size_t at = 0; at < text.size();) {
    const size_t end = token_end(text, at);
    tokens.push_back(text.substr(at, end - at));
    at = end;
  }
  return tokens;
}

Mutator::Mutator(uint64_t seed, const std::vector<std::string>& seeds, const std::vector<std::string>& words)
    : random_(seed), words_(words) {
  std::set<std::string> found;
  for (const std::string& text : seeds) {
    for (const std::string_view token : tokens_of(text)) {
      if (token.size() <= 200 && found.size() < kMostWords) found.emplace(token);
    }
  }
  words_.insert(words_.end(), found.begin(), found.end());
}

size_t Mutator::below(size_t bound) { return bound == 0 ? 0 : static_cast<size_t>(random_() % bound); }

const std::string& Mutator::word() {
  const std::vector<std::string>& words = words_.empty() || below(2) == 0 ? hostile_words() : words_;
  return words[below(words.size())];
}

void Mutator::change_bytes(std::string& text) {
  if (text.empty()) text = "x";
  const size_t at = below(text.size());
  switch (below(4)) {
    case 0:
      text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
      break;
    case 1:
      text[at] = static_cast<char>(below(256));
      break;
    case 2:
      text.erase(at, 1 + below(4));
      break;
    default:
      text.insert(at, 1, static_cast<char>(below(256)));
  }
}

// Cut off, taken out, given twice, or put in from another input.
void Mutator::change_range(std::string& text, const std::string& other) {
  const size_t begin = below(text.size() + 1), size = below(std::min<size_t>(text.size() - begin, 1 + below(512)) + 1);
  switch (below(4)) {
    case 0:
      text.resize(begin);
      break;
    case 1:
      text.erase(begin, size);
      break;
    case 2:
      text.insert(begin, text.substr(begin, size));
      break;
    default: {
      const size_t from = below(other.size() + 1);
      text.replace(begin, below(2) == 0 ? size : 0,
                   other.substr(from, below(std::min<size_t>(other.size() - from, 512) + 1)));
    }
  }
}

void Mutator::change_token(std::string& text) {
  const std::vector<std::string_view> tokens = tokens_of(text);
  if (tokens.empty()) {
    text = word();
    return;
  }
  size_t index = below(tokens.size());
  for (int tries = 0; tries < 4 && !is_word_character(tokens[index][0]) && tokens[index][0] != '"'; ++tries)
    index = below(tokens.size());
  const size_t at = static_cast<size_t>(tokens[index].data() - text.data()), size = tokens[index].size();
  const std::string token(tokens[index]), other(tokens[below(tokens.size())]);
  switch (below(6)) {
    case 0:
      text.replace(at, size, other);
      break;
    case 1:
      text.erase(at, size);
      break;
    case 2:
      text.insert(at, token);
      break;
    case 3:
      text.insert(at + size, word());
      break;
    default:
      text.replace(at, size, word());
  }
}

// A token as deep inside lists or objects as no reader has to follow.
void Mutator::nest(std::string& text) {
  static const std::vector<std::pair<std::string, std::string>> kBrackets = {
      {"[", "]"}, {"{\"a\":", "}"}, {"(", ")"}, {"- ", ""}, {"{a: ", "}"}, {"not ", ""}};
  const std::vector<std::string_view> tokens = tokens_of(text);
  if (tokens.empty()) return;
  const std::string_view token = tokens[below(tokens.size())];
  const size_t at = static_cast<size_t>(token.data() - text.data()), end = at + token.size();
  const auto& [open, close] = kBrackets[below(kBrackets.size())];
  const size_t depth = size_t{1} << below(14);
  std::string opens, closes;
  for (size_t i = 0; i < depth && opens.size() + closes.size() + text.size() < kLongest; ++i) {
    opens += open;
    closes += close;
  }
  if (below(4) != 0) text.insert(end, closes);
  text.insert(at, opens);
}

std::string Mutator::mutate(const std::vector<std::string>& corpus) {
  std::string text = corpus[below(corpus.size())];
  const std::string& other = corpus[below(corpus.size())];
  size_t changes = 1;
  while (changes < 12 && below(2) == 0) ++changes;
  for (size_t i = 0; i < changes; ++i) {
    const size_t kind = below(32);
    if (kind < 6) {
      change_bytes(text);
    } else if (kind < 11) {
      change_range(text, other);
    } else if (kind < 31) {
      change_token(text);
    } else if (below(4) == 0) {
      nest(text);
    }
  }
  if (text.size() > kLongest) text.resize(kLongest);
  return text;
}

}  // namespace qkr::fuzz
