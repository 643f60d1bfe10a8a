#include "trainer/probe/unicode.h"

#include <gtest/gtest.h>

#include "trainer/core/digest.h"

namespace qkr {
namespace {

std::string utf8(uint32_t code_point) {
  std::string text;
  append_code_point(&text, code_point);
  return text;
}

// Digests of what Python 3.11 (Unicode 14) gives for every code point: [c.lower() + "\n"], and
// sigmas beside each.
TEST(Unicode, LowerIsPythonsForEveryCodePoint) {
  Sha256 lower, sigma;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    lower.add(python_lower(utf8(c)) + "\n");
    sigma.add(python_lower("A" + utf8(c) + "Σ" + utf8(c) + "a\n" + utf8(c) + "Σ"));
  }
  EXPECT_EQ(lower.hex(), "df5f2dce2f27c6135470af16d1fb16abb665a21ddc29386b62030008b01a2429");
  EXPECT_EQ(sigma.hex(), "701415a72c752e189b8461d782eb0530acc5c21c152cdf6ed2b1fb7242849f41");
}

TEST(Unicode, EveryCodePointComesBack) {
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    const std::string text = utf8(c);
    size_t at = 0;
    ASSERT_EQ(next_code_point(text, &at), c);
    ASSERT_EQ(at, text.size());
  }
}

TEST(Unicode, BytesThatAreNoTextStayAsTheyAre) {
  for (const std::string text : {"\xFF", "a\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                                 "\xE2\x82", "\x80y", "\xF8\x88\x80\x80\x80"}) {
    EXPECT_EQ(python_lower(text), text);
    EXPECT_EQ(collapse_white_space(text), text);
  }
}

TEST(Unicode, WhiteSpaceIsPythons) {
  int spaces = 0;
  for (uint32_t c = 0; c < 0x110000; ++c) spaces += is_python_space(c) ? 1 : 0;
  EXPECT_EQ(spaces, 29);
  EXPECT_TRUE(is_python_space(0x1C) && is_python_space(0x85) && is_python_space(0x3000) &&
              is_python_space(0x2028));
  EXPECT_FALSE(is_python_space(0x200B) || is_python_space(0xFEFF) || is_python_space(0x7F) ||
               is_python_space(0x180E));
  EXPECT_EQ(collapse_white_space("\t a \n\n b\u00A0\u2003c\x1F"), " a b c ");
  EXPECT_EQ(python_strip(" \u00A0a b\x1C\n"), "a b");
  EXPECT_EQ(python_strip(" \n"), "");
}

TEST(Unicode, LowerCaseLetters) {
  EXPECT_TRUE(is_lower_case('a') && is_lower_case(0xE9) && is_lower_case(0x3C2) &&
              is_lower_case(0x436));
  EXPECT_FALSE(is_lower_case('A') || is_lower_case('5') || is_lower_case('"') ||
               is_lower_case(0x416) || is_lower_case(0x4E00));
}

}  // namespace
}  // namespace qkr
