#include "trainer/probe/scoring.h"

#include <cstdio>
#include <cstdlib>

#include "trainer/core/error.h"
#include "trainer/probe/unicode.h"

namespace qkr {

std::string clean_prediction(std::string_view prediction) {
  std::string text(python_strip(prediction));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  }
  return std::string(python_strip(text));
}

bool holds_answer(std::string_view prediction, std::string_view answer) {
  return python_lower(prediction).find(python_lower(answer)) != std::string::npos;
}

double string_match(std::string_view cleaned, const std::vector<std::string>& outputs) {
  if (outputs.empty()) fail("score: an item must have an answer, got none");
  const std::string text = python_lower(cleaned);
  double found = 0;
  for (const std::string& output : outputs)
    found += text.find(python_lower(output)) != std::string::npos ? 1.0 : 0.0;
  return found / static_cast<double>(outputs.size());
}

double round_2(double x) {
  char digits[352];  // printf rounds the exact binary value, ties to even, as Python does
  std::snprintf(digits, sizeof digits, "%.2f", x);
  return std::strtod(digits, nullptr);
}

std::string BatchScore::nulls_text() const { return concat(nulls, "/", total); }

BatchScore batch_score(const std::vector<double>& shares, int64_t nulls) {
  if (shares.empty()) fail("score: a batch must have a prediction, got none");
  double sum = 0;
  for (const double share : shares) sum += share;
  const int64_t total = static_cast<int64_t>(shares.size());
  return {round_2(sum / static_cast<double>(total) * 100), nulls, total};
}

}  // namespace qkr
