// Files that lie. Each must be refused with one line that names the file, the place and the rule.
#include <gtest/gtest.h>

#include <random>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/io/safetensors_header.h"

namespace qkr::test {
namespace {

const std::string kGood = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                          R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]}})";

std::string with(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  if (at == std::string::npos) throw std::logic_error("no '" + from + "' to replace");
  return text.replace(at, from.size(), to);
}

std::string file_of(const std::string& header, size_t data_bytes = 12) {
  return safetensors_bytes(header, std::string(data_bytes, 'd'));
}

struct Case {
  std::string bytes, want;
};

void expect_refused(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    const std::string got = QKR_MESSAGE_OF(parse_safetensors(c.bytes, "m.safetensors"));
    EXPECT_EQ(got, "m.safetensors: " + c.want) << c.bytes.substr(0, 200);
    EXPECT_LT(got.size(), 400u);
    EXPECT_EQ(got.find('\n'), std::string::npos);
  }
}

TEST(SafetensorsHeader, TheUnharmedFileIsRead) {
  const SafetensorsHeader header = parse_safetensors(file_of(kGood + "   "), "m");
  ASSERT_EQ(header.entries.size(), 2u);
  EXPECT_EQ(header.entries[1].name, "b");
  EXPECT_EQ(header.entries[1].shape, (std::vector<int64_t>{2, 1}));
  EXPECT_STREQ(header.entries[1].dtype->name, "BF16");
  EXPECT_EQ(header.index.at("b"), 1u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
  EXPECT_EQ(header.data_offset, 8 + kGood.size() + 3);
}

TEST(SafetensorsHeader, RefusesAFileCutShortOrGarbage) {
  const std::string whole = file_of(kGood);
  const std::string n = std::to_string(kGood.size());
  expect_refused({
      {"", "must begin with 8 bytes of header length, got 0 bytes"},
      {"1234567", "must begin with 8 bytes of header length, got 7 bytes"},
      {u64_le(0), "header must begin with '{', got ''"},
      {u64_le(2), "header must lie within the file, got a length of 2 in a file of 8 bytes"},
      {whole.substr(0, 50), "header must lie within the file, got a length of " + n + " in a file of 50 bytes"},
      {whole.substr(0, whole.size() - 1), "tensor 'b' must end within the 11 bytes of data, got byte 12 (truncated file?)"},
      {whole.substr(0, whole.size() - 12), "tensor 'a' must end within the 0 bytes of data, got byte 8 (truncated file?)"},
      {whole + "x", "data must end with the last tensor at byte 12, got 13 bytes"},
      {u64_le(100'000'001) + kGood, "header length must be at most 100000000, got 100000001"},
      {u64_le(~uint64_t{0}) + kGood, "header length must be at most 100000000, got 18446744073709551615"},
      {"PK\x03\x04" + std::string(60, 'z'), "header length must be at most 100000000, got 8825501084257831760"},
      {"version https://git-lfs.github.com/spec/v1\n", "header length must be at most 100000000, got 2336927755350992246"},
      {safetensors_bytes("{}", "x"), "data must end with the last tensor at byte 0, got 1 bytes"},
  });
}

TEST(SafetensorsHeader, RefusesBadJson) {
  const std::string n = std::to_string(kGood.size());
  expect_refused({
      {file_of(" " + kGood), "header must begin with '{', got ' {\"__met'"},
      {file_of("\xEF\xBB\xBF" + kGood), "header must begin with '{', got '\xEF\xBB\xBF{\"__m'"},
      {file_of("[]"), "header must begin with '{', got '[]'"},
      {file_of("{"), "header byte 1 must be JSON, got unexpected end of input; expected string literal"},
      {file_of(kGood + "}"), "header byte " + n + " must be JSON, got unexpected '}'; expected end of input"},
      {file_of(kGood + std::string(1, '\0') + "junk"), "header byte " + n + " must be JSON, got a NUL"},
      {file_of(with(kGood, "\"a\"", "\"\xFF\"")), "header byte 33 must be UTF-8, got 255"},
      {file_of(with(kGood, "\"a\"", "\"\\ud800\"")), "header byte 39 must be JSON, got invalid string: surrogate U+D800..U+DBFF must be followed by U+DC00..U+DFFF; expected string literal"},
      {file_of("{\"a\":" + std::string(1'000'000, '[')), "tensor 'a' must have an object after its name, got an array"},
      {file_of("{\"a\":{\"shape\":" + std::string(1'000'000, '[')), "tensor 'a' must have non-negative integers as shape, got an array"},
      {file_of("{\"a\":{\"shape\":{" + std::string(1000, '{')), "tensor 'a' must have non-negative integers as shape, got an object"},
      {file_of("{\"__metadata__\":{\"x\":{}}}"), "__metadata__ must have a string as 'x', got an object"},
      {file_of("{\"__metadata__\":{\"x\":1}}"), "__metadata__ must have a string as 'x', got 1"},
      {file_of("{\"__metadata__\":{\"x\":\"1\",\"x\":\"2\"}}"), "__metadata__ must give each key once, got 'x' twice"},
      {file_of("{\"__metadata__\":{},\"__metadata__\":{}}"), "__metadata__ must be given once, got it twice"},
      {file_of("{\"__metadata__\":null}"), "__metadata__ must have an object after its name, got null"},
  });
}

TEST(SafetensorsHeader, RefusesBadEntries) {
  std::string many = "[1";
  for (int i = 0; i < 64; ++i) many += ",1";
  expect_refused({
      {file_of(with(kGood, "\"b\"", "\"a\"")), "tensor 'a' must be named once, got two of that name"},
      {file_of(with(kGood, "\"b\"", "\"\\u0061\"")), "tensor 'a' must be named once, got two of that name"},
      {file_of(with(kGood, "\"F32\"", "\"F33\"")), "tensor 'a' must have a dtype of the format, got 'F33'"},
      {file_of(with(kGood, "\"F32\"", "\"f32\"")), "tensor 'a' must have a dtype of the format, got 'f32'"},
      {file_of(with(kGood, "\"F32\"", "32")), "tensor 'a' must have a string as dtype, got 32"},
      {file_of(with(kGood, "\"F32\"", "[\"F32\"]")), "tensor 'a' must have a string as dtype, got an array"},
      {file_of(with(kGood, "\"dtype\":\"F32\",", "")), "tensor 'a' must have dtype, shape and data_offsets, got no dtype"},
      {file_of(with(kGood, "\"shape\":[2],", "")), "tensor 'a' must have dtype, shape and data_offsets, got no shape"},
      {file_of(with(kGood, ",\"data_offsets\":[0,8]", "")), "tensor 'a' must have dtype, shape and data_offsets, got no data_offsets"},
      {file_of(with(kGood, "\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"dtype\":\"F16\"")), "tensor 'a' must give each key once, got 'dtype' twice"},
      {file_of(with(kGood, "\"dtype\":\"F32\"", "\"dtype\":\"F32\",\"x\":1")), "tensor 'a' must have dtype, shape and data_offsets alone, got 'x'"},
      {file_of(with(kGood, "[2]", "2")), "tensor 'a' must have non-negative integers as shape, got 2"},
      {file_of(with(kGood, "[2]", "[-2]")), "tensor 'a' must have non-negative integers as shape, got -2"},
      {file_of(with(kGood, "[2]", "[2.0]")), "tensor 'a' must have non-negative integers as shape, got '2.0'"},
      {file_of(with(kGood, "[2]", "[\"2\"]")), "tensor 'a' must have non-negative integers as shape, got '2'"},
      {file_of(with(kGood, "[2]", "[null]")), "tensor 'a' must have non-negative integers as shape, got null"},
      {file_of(with(kGood, "[2]", "[true]")), "tensor 'a' must have non-negative integers as shape, got true"},
      {file_of(with(kGood, "[2]", "[9223372036854775808]")), "tensor 'a' must have shape below 2^63, got 9223372036854775808"},
      {file_of(with(kGood, "[2]", many + "]")), "tensor 'a' must have at most 64 dimensions, got more"},
      {file_of(with(kGood, "[0,8]", "[0]")), "tensor 'a' must have two data_offsets, got 1"},
      {file_of(with(kGood, "[0,8]", "[0,8,8]")), "tensor 'a' must have two data_offsets, got more"},
      {file_of(with(kGood, "[0,8]", "[0,-8]")), "tensor 'a' must have non-negative integers as data_offsets, got -8"},
      {file_of("{\"a\":3}"), "tensor 'a' must have an object after its name, got 3"},
  });
}

TEST(SafetensorsHeader, RefusesSpansThatDoNotTileTheData) {
  expect_refused({
      {file_of(with(kGood, "[2]", "[3]")), "tensor 'a' must have 12 bytes (F32 [3]), got 8 by its data_offsets"},
      {file_of(with(kGood, "[2]", "[0]")), "tensor 'a' must have 0 bytes (F32 [0]), got 8 by its data_offsets"},
      {file_of(with(kGood, "[2]", "[]")), "tensor 'a' must have 4 bytes (F32 []), got 8 by its data_offsets"},
      {file_of(with(kGood, "[0,8]", "[8,0]")), "tensor 'a' must have data_offsets in order, got [8, 0]"},
      {file_of(with(kGood, "[0,8]", "[0,4]")), "tensor 'a' must have 8 bytes (F32 [2]), got 4 by its data_offsets"},
      {file_of(with(kGood, "[8,12]", "[4,8]")), "tensor 'b' must begin at byte 8 where the one before ends (no gap, no overlap), got 4"},
      {file_of(with(kGood, "[8,12]", "[0,4]"), 8), "tensor 'a' must begin at byte 4 where the one before ends (no gap, no overlap), got 0"},
      {file_of(with(kGood, "[8,12]", "[9,13]"), 13), "tensor 'b' must begin at byte 8 where the one before ends (no gap, no overlap), got 9"},
      {file_of(with(kGood, "[0,8]", "[4,12]"), 12), "tensor 'a' must begin at byte 0 where the one before ends (no gap, no overlap), got 4"},
      // 2^62 floats and 2^64 of them: neither may wrap round to the span that is there
      {file_of(with(kGood, "[2]", "[4611686018427387906]")),
       "tensor 'a' must have a shape of at most 2^62 bits, got [4611686018427387906]"},
      {file_of(with(kGood, "[2]", "[4294967296,4294967296]")),
       "tensor 'a' must have a shape of at most 2^62 bits, got [4294967296, 4294967296]"},
      {file_of(with(kGood, "[2]", "[4294967296,0,4294967296]")),
       "tensor 'a' must have a shape of at most 2^62 bits, got [4294967296, 0, 4294967296]"},
      {file_of(with(kGood, "[0,8]", "[9223372036854775807,9223372036854775807]")),
       "tensor 'a' must have 8 bytes (F32 [2]), got 0 by its data_offsets"},
      {file_of(R"({"q":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2), "tensor 'q' must have 2 bytes (F4 [3]), got 2 by its data_offsets"},
  });
}

TEST(SafetensorsHeader, EmptyTensorsMayLieAnywhereBetweenOthers) {
  const std::string header = R"({"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[4,8]},)"
                             R"("x":{"dtype":"I32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"I64","shape":[5,0],"data_offsets":[8,8]}})";
  EXPECT_EQ(QKR_MESSAGE_OF(parse_safetensors(file_of(header, 8), "m")), "");
}

// Any single byte changed gives an error or a file that still tiles its data; never a crash, never a reach outside.
TEST(SafetensorsHeader, SurvivesEveryOneByteChange) {
  const std::string good = file_of(kGood);
  std::mt19937 random(7);
  int read = 0, refused = 0;
  for (size_t at = 0; at < good.size(); ++at) {
    for (int k = 0; k < 40; ++k) {
      std::string bytes = good;
      bytes[at] = static_cast<char>(random() & 0xFF);
      if (k % 4 == 3) bytes.erase(random() % bytes.size(), random() % 5);
      try {
        const SafetensorsHeader header = parse_safetensors(bytes, "m");
        for (const SafetensorsEntry& entry : header.entries) ASSERT_LE(header.data_offset + entry.end, bytes.size());
        ++read;
      } catch (const Error& error) {
        ASSERT_EQ(std::string(error.what()).find("m: "), 0u);
        ++refused;
      }
    }
  }
  EXPECT_GT(read, 100);  // changed data and names
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace qkr::test
