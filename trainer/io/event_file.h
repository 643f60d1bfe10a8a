// TensorBoard scalars. Record = u64 length, masked CRC32C of those 8 bytes, payload, masked CRC32C of the payload (TFRecord);
// payload = the protobuf message tensorflow.Event (tensorflow/core/util/event.proto), encoded here by hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

namespace qkr {

class EventFileWriter {
 public:
  // Makes `folder` and a new file events.out.tfevents.<seconds>.<host>.<pid> in it. With `resume_step` the file tells
  // TensorBoard to forget the earlier files' points from that step on.
  explicit EventFileWriter(const std::filesystem::path& folder, std::optional<int64_t> resume_step = std::nullopt);
  ~EventFileWriter();
  EventFileWriter(const EventFileWriter&) = delete;
  EventFileWriter& operator=(const EventFileWriter&) = delete;

  // One point; the value is kept in fp32. Reaches the operating system before it returns.
  void scalar(std::string_view tag, double value, int64_t step);

  const std::filesystem::path& path() const { return path_; }

 private:
  void write_event(int64_t step, std::string_view payload);

  std::filesystem::path path_;
  int fd_ = -1;
};

// CRC-32C (Castagnoli, reflected 0x82F63B78), and TFRecord's masking of it.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace qkr
