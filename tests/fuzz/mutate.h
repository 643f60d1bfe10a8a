// New inputs from old ones: bytes, and tokens as JSON, YAML and Jinja have them, changed at random. A function of the
// seed alone.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace qkr::fuzz {

class Mutator {
 public:
  // `words` and the tokens of `seeds` are what is spliced in.
  Mutator(uint64_t seed, const std::vector<std::string>& seeds, const std::vector<std::string>& words);

  // An input of the corpus changed in one place or a few; at most kLongest bytes.
  std::string mutate(const std::vector<std::string>& corpus);

  static constexpr size_t kLongest = size_t{1} << 16;

 private:
  void change_bytes(std::string& text);
  void change_range(std::string& text, const std::string& other);
  void change_token(std::string& text);
  void nest(std::string& text);

  size_t below(size_t bound);  // uniform in [0, bound); 0 where bound is 0
  const std::string& word();

  std::mt19937_64 random_;
  std::vector<std::string> words_;
};

// A token of a text: a quoted string, a word or number, a run of white space, or one other character.
std::vector<std::string_view> tokens_of(std::string_view text);

}  // namespace qkr::fuzz
