#include "trainer/probe/scoring.h"

#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

TEST(Scoring, EveryControlCharacterBecomesANewline) {
  for (int c = 0; c < 0x20; ++c) {
    const std::string text = std::string("a") + static_cast<char>(c) + "b";
    EXPECT_EQ(clean_prediction(text), "a\nb") << c;
    EXPECT_EQ(clean_prediction(std::string(1, static_cast<char>(c)) + "a"), "a") << c;
  }
  EXPECT_EQ(clean_prediction("a\x7F"), "a\x7F");
  // The first strip ends at U+0000, which is no white space; the second one takes it as a newline.
  EXPECT_EQ(clean_prediction(std::string(" \0 7 \0", 6)), "7");
}

TEST(Scoring, RoundsAsPythonDoes) {
  EXPECT_EQ(round_2(2.675), 2.67);  // the double is a little less
  EXPECT_EQ(round_2(0.125), 0.12);  // a tie: to even
  EXPECT_EQ(round_2(0.375), 0.38);
  EXPECT_EQ(round_2(200.0 / 3), 66.67);
}

TEST(Scoring, AnswersAndBatchesMayNotBeEmpty) {
  EXPECT_EQ(QKR_MESSAGE_OF(string_match("a", {})), "score: an item must have an answer, got none");
  EXPECT_EQ(QKR_MESSAGE_OF(batch_score({}, 0)), "score: a batch must have a prediction, got none");
  EXPECT_TRUE(holds_answer("say ABC", "abc"));
  EXPECT_FALSE(holds_answer("say AB", "abc"));
}

}  // namespace
}  // namespace qkr
