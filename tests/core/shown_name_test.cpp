#include "trainer/core/shown_name.h"

#include <gtest/gtest.h>

namespace qkr {
namespace {

TEST(ShownName, IsItselfWhereItIsPlain) {
  EXPECT_EQ(shown_name("model.layers.0.self_attn.q_proj.weight"), "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(shown_name("größe 'x' \\"), "größe 'x' \\");
  EXPECT_EQ(shown_name(std::string(80, 'x')), std::string(80, 'x'));
}

TEST(ShownName, IsQuotedWhereItWouldBreakTheLine) {
  EXPECT_EQ(shown_name("a\nb"), "'a\\nb'");
  EXPECT_EQ(shown_name("\x1b[31m"), "'\\x1b[31m'");
  EXPECT_EQ(shown_name("\x7f"), "'\\x7f'");
  EXPECT_EQ(shown_name("\xFF"), "'\\xff'");
  EXPECT_EQ(shown_name(""), "''");
  EXPECT_EQ(shown_name("abcdef", 5), "'abcde…'");
}

TEST(ShownNames, TellsHowManyAreLeftOut) {
  EXPECT_EQ(shown_names({}), "");
  EXPECT_EQ(shown_names({"a", "b\n"}), "a, 'b\\n'");
  EXPECT_EQ(shown_names({"a", "b", "c"}, 2), "a, b and 1 more");
}

TEST(ShownWords, IsOneLineOfPrintableText) {
  EXPECT_EQ(shown_words("at line 1\n\tof x\x1b[0m"), "at line 1  of x [0m");
  EXPECT_EQ(shown_words("a\xC3z\xFF"), "a?z?");
  EXPECT_EQ(shown_words("ab€d", 3), "ab…");
  EXPECT_EQ(shown_words("ab€d", 5), "ab€…");
  EXPECT_EQ(shown_words("ab€", 5), "ab€");
}

}  // namespace
}  // namespace qkr
