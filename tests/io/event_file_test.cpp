#include "trainer/io/event_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

// RFC 3720 B.4, and the check value of the CRC catalogue.
TEST(Crc32c, KnownVectors) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
  std::string ascending;
  for (char c = 0; c < 32; ++c) ascending += c;
  EXPECT_EQ(crc32c(ascending), 0x46DD794Eu);
  EXPECT_EQ(crc32c(std::string(ascending.rbegin(), ascending.rend())), 0x113FDB5Cu);
}

// A reader of its own: bitwise CRC, protobuf by recursive descent over a generic message.
uint32_t slow_masked_crc(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (const char byte : bytes) {
    crc ^= static_cast<unsigned char>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0x82F63B78u : crc >> 1;
  }
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xA282EAD8u;
}

struct Field {
  int number = 0, wire = 0;
  uint64_t integer = 0;   // varint and fixed
  std::string bytes;      // length-delimited
};

uint64_t take_varint(std::string_view& in) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = static_cast<unsigned char>(in.at(0));
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
}

template <class T>
T take(std::string_view& in) {
  T value;
  std::memcpy(&value, in.substr(0, sizeof value).data(), sizeof value);
  in.remove_prefix(sizeof value);
  return value;
}

std::map<int, Field> message_of(std::string_view in) {
  std::map<int, Field> fields;
  while (!in.empty()) {
    const uint64_t key = take_varint(in);
    Field field;
    field.number = static_cast<int>(key >> 3);
    field.wire = static_cast<int>(key & 7);
    if (field.wire == 0) field.integer = take_varint(in);
    if (field.wire == 1) field.integer = take<uint64_t>(in);
    if (field.wire == 5) field.integer = take<uint32_t>(in);
    if (field.wire == 2) {
      const size_t size = take_varint(in);
      field.bytes = std::string(in.substr(0, size));
      in.remove_prefix(size);
    }
    fields[field.number] = field;
  }
  return fields;
}

std::vector<std::map<int, Field>> events_of(const fs::path& path) {
  const std::string file = read_file(path);
  std::string_view in = file;
  std::vector<std::map<int, Field>> events;
  while (!in.empty()) {
    const std::string_view length_bytes = in.substr(0, 8);
    const auto length = take<uint64_t>(in);
    EXPECT_EQ(take<uint32_t>(in), slow_masked_crc(length_bytes));
    const std::string_view payload = in.substr(0, length);
    in.remove_prefix(length);
    EXPECT_EQ(take<uint32_t>(in), slow_masked_crc(payload));
    events.push_back(message_of(payload));
  }
  return events;
}

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

TEST(EventFile, IsWhatTensorBoardReads) {
  const TmpDir dir;
  EventFileWriter writer(dir / "tensorboard");
  writer.scalar("train/loss", 2.5, 1);
  writer.scalar("probe/niah_single_2/4096", -0.1, 300);
  writer.scalar("big", 1e30, int64_t{1} << 40);
  EXPECT_EQ(writer.path().filename().string().find("events.out.tfevents."), 0u);

  auto events = events_of(writer.path());
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[0][3].bytes, "brain.Event:2");
  const double now = bits<double>(events[0][1].integer);
  EXPECT_NEAR(now, static_cast<double>(std::time(nullptr)), 60);

  auto first = message_of(message_of(events[1][5].bytes)[1].bytes);
  EXPECT_EQ(events[1][2].integer, 1u);
  EXPECT_EQ(first[1].bytes, "train/loss");
  EXPECT_EQ(first[2].wire, 5);
  EXPECT_EQ(bits<float>(static_cast<uint32_t>(first[2].integer)), 2.5f);

  auto second = message_of(message_of(events[2][5].bytes)[1].bytes);
  EXPECT_EQ(events[2][2].integer, 300u);  // a two-byte varint
  EXPECT_EQ(second[1].bytes, "probe/niah_single_2/4096");
  EXPECT_EQ(bits<float>(static_cast<uint32_t>(second[2].integer)), -0.1f);
  EXPECT_EQ(events[3][2].integer, uint64_t{1} << 40);
}

TEST(EventFile, AResumeGetsItsOwnFileAndForgetsLaterPoints) {
  const TmpDir dir;
  const EventFileWriter first(dir.path());
  const EventFileWriter second(dir.path(), 200);
  EXPECT_NE(first.path(), second.path());
  auto events = events_of(second.path());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1][2].integer, 200u);
  EXPECT_EQ(message_of(events[1][7].bytes)[1].integer, 1u);  // session_log.status = START
}

TEST(EventFile, NamesAFolderThatCannotBeMade) {
  const TmpDir dir;
  dir.write("file", "");
  EXPECT_NE(QKR_MESSAGE_OF(EventFileWriter(dir / "file/x")).find((dir / "file/x").string() + ": must be a folder"), std::string::npos);
}

}  // namespace
}  // namespace qkr::test
