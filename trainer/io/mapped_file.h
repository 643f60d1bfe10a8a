// A regular file as read-only memory. The file must not shrink while it is mapped: reading past its new end is a SIGBUS.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string_view>

namespace qkr {

class MappedFile {
 public:
  // Errors name the file: absent, a folder or device, no permission.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const char* data() const { return data_; }  // page-aligned; null for an empty file
  size_t size() const { return size_; }
  std::string_view bytes() const { return {data_, size_}; }

 private:
  const char* data_ = nullptr;
  size_t size_ = 0;
};

// Opens a regular file for reading and returns its descriptor, or throws Error with a sentence about `path`.
int open_for_reading(const std::filesystem::path& path);

}  // namespace qkr
