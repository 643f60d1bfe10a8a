#include "trainer/io/event_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <system_error>

#include "trainer/core/error.h"
#include "trainer/io/atomic.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

// Little-endian whatever the machine is.
template <class Unsigned>
std::string little_endian(Unsigned value) {
  std::string bytes(sizeof value, '\0');
  for (size_t i = 0; i < sizeof value; ++i) bytes[i] = static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>((value & 0x7F) | 0x80);
  return bytes + static_cast<char>(value);
}

// Protobuf wire types: 0 varint, 1 eight bytes, 2 length-delimited, 5 four bytes.
std::string key(int field, int wire_type) { return varint(static_cast<uint64_t>(field) << 3 | wire_type); }
std::string field_varint(int field, int64_t value) { return key(field, 0) + varint(static_cast<uint64_t>(value)); }
std::string field_bytes(int field, std::string_view bytes) {
  return key(field, 2) + varint(bytes.size()) + std::string(bytes);
}

std::string field_double(int field, double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return key(field, 1) + little_endian(bits);
}

std::string field_float(int field, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return key(field, 5) + little_endian(bits);
}

double seconds_since_epoch() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// events.out.tfevents.<seconds>.<host>.<pid>[.<n>]: n tells apart two writers of one process within a second.
std::string event_file_name(int n) {
  char host[256] = "localhost";
  ::gethostname(host, sizeof host - 1);
  const auto seconds = static_cast<int64_t>(seconds_since_epoch());
  const std::string name = concat("events.out.tfevents.", seconds, ".", host, ".", ::getpid());
  return n == 0 ? name : concat(name, ".", n);
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (const char byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return crc ^ 0xFFFFFFFFu;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return (crc >> 15 | crc << 17) + 0xA282EAD8u;
}

EventFileWriter::EventFileWriter(const fs::path& folder, std::optional<int64_t> resume_step) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(folder.string(), ": must be a folder that can be made, got ", error.message());
  for (int n = 0; fd_ < 0; ++n) {
    path_ = folder / event_file_name(n);
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) fail(path_.string(), ": must be writable, got ", std::strerror(errno));
  }
  write_event(0, field_bytes(3, "brain.Event:2"));  // file_version
  // session_log {status: START}: readers drop what earlier files say of this step and later ones
  if (resume_step) write_event(*resume_step, field_bytes(7, field_varint(1, 1)));
}

EventFileWriter::~EventFileWriter() {
  if (fd_ >= 0) ::close(fd_);
}

void EventFileWriter::scalar(std::string_view tag, double value, int64_t step) {
  const std::string point = field_bytes(1, tag) + field_float(2, static_cast<float>(value));  // Summary.Value
  write_event(step, field_bytes(5, field_bytes(1, point)));                                   // Event.summary.value
}

void EventFileWriter::write_event(int64_t step, std::string_view payload) {
  const std::string event = field_double(1, seconds_since_epoch()) + field_varint(2, step) + std::string(payload);
  const std::string length = little_endian(static_cast<uint64_t>(event.size()));
  const std::string record = length + little_endian(masked_crc32c(length)) + event + little_endian(masked_crc32c(event));
  write_all(fd_, record, path_);
}

}  // namespace qkr
