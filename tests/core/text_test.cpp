#include "trainer/core/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <iomanip>  // brings std::quoted, which must not win over ours
#include <limits>

namespace qkr {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsAndReplacements) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("flaw", "lawn"), 2);
  EXPECT_EQ(edit_distance("lrr", "lr"), 1);
  EXPECT_EQ(edit_distance("ab", "ba"), 2);  // no transposition
}

TEST(NearestName, TakesTheNearestWithinAThird) {
  EXPECT_EQ(nearest_name("lrr", {"lr", "schedule", "eps"}), "lr");
  EXPECT_EQ(nearest_name("weight_dcay", {"warmup", "weight_decay"}), "weight_decay");
  EXPECT_EQ(nearest_name("completely_other", {"lr", "eps"}), "");
  EXPECT_EQ(nearest_name("x", {}), "");
  EXPECT_EQ(nearest_name("abcdef", {"abcxyz"}), "");        // three edits of six
  EXPECT_EQ(nearest_name("abcdefghi", {"abcdefxyz"}), "abcdefxyz");  // three of nine
  EXPECT_EQ(did_you_mean("lrr", {"lr"}), "; did you mean lr?");
  EXPECT_EQ(did_you_mean("completely_other", {"lr"}), "");
}

TEST(Text, JoinsAndComparesEnds) {
  EXPECT_EQ(join({}), "");
  EXPECT_EQ(join({"a"}), "a");
  EXPECT_EQ(join({"a", "", "c"}, "|"), "a||c");
  EXPECT_TRUE(starts_with("step-000200", "step-"));
  EXPECT_FALSE(starts_with("st", "step-"));
  EXPECT_TRUE(ends_with("a.partial", ".partial"));
  EXPECT_FALSE(ends_with("partial", ".partial"));
  EXPECT_TRUE(ends_with("x", ""));
}

TEST(Text, WritesNumbersForPeople) {
  EXPECT_EQ(fixed(3.14159, 2), "3.14");
  EXPECT_EQ(fixed(-0.5, 0), "-0");
  EXPECT_EQ(fixed(1e300, 1).size(), 303u);  // all its digits
  EXPECT_EQ(scientific(0.000123, 2), "1.23e-04");
  EXPECT_EQ(group_digits(0), "0");
  EXPECT_EQ(group_digits(999), "999");
  EXPECT_EQ(group_digits(1000), "1,000");
  EXPECT_EQ(group_digits(-1234567), "-1,234,567");
  EXPECT_EQ(group_digits(std::numeric_limits<int64_t>::min()), "-9,223,372,036,854,775,808");
}

TEST(Text, WritesBytesForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes((int64_t{1} << 20) - 1), "1.0 MiB");  // never "1024.0 KiB"
  EXPECT_EQ(human_bytes(int64_t{19005000000}), "17.7 GiB");
  EXPECT_EQ(human_bytes(int64_t{5} << 50), "5120.0 TiB");
  EXPECT_EQ(human_bytes(-2048), "-2.0 KiB");
}

TEST(Text, WritesSecondsForPeople) {
  EXPECT_EQ(human_seconds(0), "0.0s");
  EXPECT_EQ(human_seconds(4.2), "4.2s");
  EXPECT_EQ(human_seconds(59.97), "1m00s");
  EXPECT_EQ(human_seconds(65), "1m05s");
  EXPECT_EQ(human_seconds(3599.6), "1h00m");
  EXPECT_EQ(human_seconds(3725), "1h02m");
  EXPECT_EQ(human_seconds(360000), "100h00m");
  EXPECT_EQ(human_seconds(std::nan("")), "?");
  EXPECT_EQ(human_seconds(INFINITY), "?");
  EXPECT_EQ(human_seconds(1e300), "?");
  EXPECT_EQ(human_seconds(-1e300), "?");
}

// The first wrong byte, or -1 for well-formed text.
int bad_byte_of(std::string_view text) {
  size_t bad = 0;
  return is_utf8(text, &bad) ? -1 : static_cast<int>(bad);
}

TEST(Utf8, AcceptsEveryLengthAtItsEdges) {
  EXPECT_EQ(bad_byte_of(""), -1);
  EXPECT_EQ(bad_byte_of(std::string_view("\0a", 2)), -1);
  for (const char* text : {"\x7F", "\xC2\x80", "\xDF\xBF", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xEE\x80\x80", "\xEF\xBF\xBF",
                           "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"}) {
    EXPECT_EQ(bad_byte_of(text), -1) << text;
  }
}

TEST(Utf8, RefusesMalformedTextAtItsFirstByte) {
  struct Case {
    const char* text;
    int bad;
  };
  const Case cases[] = {
      {"ab\x80", 2},              // lone continuation
      {"ab\xC3", 2},              // cut after a lead byte
      {"\xE2\x82", 0},            // cut three-byte sequence
      {"\xF0\x9F\x98", 0},        // cut four-byte sequence
      {"\xC0\xAF", 0},            // overlong '/'
      {"\xC1\xBF", 0},            // overlong
      {"\xE0\x9F\xBF", 0},        // overlong
      {"\xF0\x8F\xBF\xBF", 0},    // overlong
      {"x\xED\xA0\x80", 1},       // surrogate
      {"\xED\xBF\xBF", 0},        // surrogate
      {"\xF4\x90\x80\x80", 0},    // above U+10FFFF
      {"\xF5\x80\x80\x80", 0},    // no such lead
      {"\xFE", 0},
      {"\xFF", 0},
      {"é\xE9 ", 2},              // Latin-1 after good text
      {"\xC3(", 0},               // lead without its continuation
      {"\xE2\x28\xA1", 0},
  };
  for (const Case& c : cases) EXPECT_EQ(bad_byte_of(c.text), c.bad) << c.text;
}

// Every three-byte sequence, against the decoder's arithmetic.
TEST(Utf8, ThreeByteSequencesAreExactlyTheScalars) {
  int good = 0;
  for (int second = 0x80; second < 0xC0; ++second) {
    for (int lead = 0xE0; lead < 0xF0; ++lead) {
      const int scalar = (lead & 15) << 12 | (second & 63) << 6;
      const std::string text = {static_cast<char>(lead), static_cast<char>(second), static_cast<char>(0x80)};
      const bool want = scalar >= 0x800 && !(scalar >= 0xD800 && scalar < 0xE000);
      EXPECT_EQ(is_utf8(text), want) << std::hex << scalar;
      good += want;
    }
  }
  EXPECT_EQ(good, 16 * 64 - 32 - 32);
}

TEST(Quoted, EscapesWhatWouldBreakALine) {
  EXPECT_EQ(quoted(std::string_view("plain")), "'plain'");
  EXPECT_EQ(quoted(std::string_view("a\nb\tc\x01")), "'a\\nb\\tc\\x01'");
  EXPECT_EQ(quoted(std::string_view("it's \\")), "'it\\'s \\\\'");
  EXPECT_EQ(quoted(std::string_view("\xFFz")), "'\\xffz'");
  EXPECT_EQ(quoted(std::string_view("\0x", 2)), "'\\x00x'");
  EXPECT_EQ(quoted(std::string_view("é€😀")), "'é€😀'");
}

TEST(Quoted, CutsAtACharacter) {
  EXPECT_EQ(quoted(std::string_view("abcdef"), 3), "'abc…'");
  EXPECT_EQ(quoted(std::string_view("abc"), 3), "'abc'");
  EXPECT_EQ(quoted(std::string_view("ab€d"), 3), "'ab…'");
  EXPECT_EQ(quoted(std::string_view("ab€d"), 5), "'ab€…'");
  EXPECT_EQ(quoted(std::string_view(std::string(1000, 'x'))).size(), 60 + 2 + std::string("…").size());
}

// With <iomanip> in sight and std::string arguments, std::quoted is found too and writes double quotes.
TEST(Quoted, IsOursForEveryKindOfString) {
  std::string text = "a";
  const std::string constant = "b";
  EXPECT_EQ((std::ostringstream() << quoted(text)).str(), "'a'");
  EXPECT_EQ((std::ostringstream() << quoted(constant)).str(), "'b'");
  EXPECT_EQ((std::ostringstream() << quoted(std::string("c"))).str(), "'c'");
  EXPECT_EQ((std::ostringstream() << quoted("d")).str(), "'d'");
  EXPECT_EQ((std::ostringstream() << quoted(text.c_str())).str(), "'a'");
}

}  // namespace
}  // namespace qkr
