// RULER's score: a prediction is cleaned, and the answers are looked for in it as substrings.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

// strip(), each of U+0000-U+001F to a newline, strip() again. Empty: RULER counts a null.
std::string clean_prediction(std::string_view prediction);

// Does `prediction` hold `answer`, both lower-cased? An empty answer is in everything.
bool holds_answer(std::string_view prediction, std::string_view answer);

// The share of `outputs` that the cleaned prediction holds, 0 .. 1. `outputs` must not be empty.
double string_match(std::string_view cleaned, const std::vector<std::string>& outputs);

// x to two decimals as Python's round: the double nearest to the decimal, ties of the exact binary
// value to even.
double round_2(double x);

struct BatchScore {
  double score = 0;  // mean x 100 to two decimals
  int64_t nulls = 0, total = 0;
  std::string nulls_text() const;  // "1/3"
};

// string_match_all over a batch of items' shares; `nulls` counts empty predictions.
BatchScore batch_score(const std::vector<double>& shares, int64_t nulls);

}  // namespace qkr
