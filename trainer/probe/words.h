// The words that needle keys are made of: wonderwords 3.0.1 (third_party/wonderwords, MIT), the
// lists that RULER draws from.
#pragma once

#include <string_view>
#include <vector>

namespace qkr {

extern const std::string_view kAdjectiveList;  // words_data.cpp, made by scripts/make_words.py
extern const std::string_view kNounList;

// The file's order, repetitions kept: 912 and 6,782 words. Views into the program's own data.
const std::vector<std::string_view>& adjectives();
const std::vector<std::string_view>& nouns();

// Each adjective once (910), in the order of its first appearance: "adjective-noun" is then uniform
// over distinct keys.
const std::vector<std::string_view>& distinct_adjectives();

}  // namespace qkr
