#include <gtest/gtest.h>

#include "tests/data/support.h"

namespace qkr {
namespace {

Sample sample_of(const std::string& text, const std::string& mask) {
  Sample sample{test::bytes(text), {}};
  for (const char c : mask) sample.trained.push_back(c == '1' ? 1 : 0);
  return sample;
}

std::string shown(const Sample& sample, bool color) { return inspect_sample(sample, *test::text_model().tokenizer, color); }

TEST(Inspect, MarksTheTrainedTokens) {
  const Sample sample = sample_of("abcdef", "011001");
  EXPECT_EQ(shown(sample, false), "a⟦bc⟧de⟦f⟧");
  EXPECT_EQ(shown(sample, true), "a\x1b[32mbc\x1b[0mde\x1b[32mf\x1b[0m");
  EXPECT_EQ(shown({}, true), "");
}

TEST(Inspect, ShowsSpecialTokensAndNoControlCharacters) {
  Sample sample = sample_of("a\x1b[31m\n\tb\x7f", std::string(10, '0'));
  sample.ids.push_back(test::kImEnd);
  sample.trained.push_back(1);
  EXPECT_EQ(shown(sample, false), "a\\x1b[31m\n\tb\\x7f⟦<|im_end|>⟧");
  EXPECT_EQ(shown(sample_of("\xc2\x9b" "31m", "00000"), false), "\\x9b31m");
}

TEST(Inspect, ACharacterCutByTheMaskIsShownAsBroken) {
  EXPECT_EQ(shown(sample_of("é", "01"), false), "\xef\xbf\xbd⟦\xef\xbf\xbd⟧");
  EXPECT_EQ(shown(sample_of("né!", "0001"), false), "né⟦!⟧");
}

}  // namespace
}  // namespace qkr
