// Files and folders that are either whole or absent: written under "<name>.partial" beside the target, synced, renamed. A
// killed process leaves at most a .partial, which the next writer of the same name replaces. One writer a target at a time.
// Failing to begin (no such folder, no permission) is kBadInput; failing half way (disk full) is kRunFailed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "trainer/core/error.h"

namespace qkr {

// The bytes of a regular file. Errors name the file: absent, a folder, no permission, more than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, size_t max_bytes = size_t{1} << 30);

// write() until all is written; the error names `path` and, if the disk is full, what is free. kRunFailed.
void write_all(int fd, std::string_view bytes, const std::filesystem::path& path);

// A file in the making. Without commit() the destructor removes it and the target stays as it was.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path target);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::string_view bytes) { write_all(fd_, bytes, target_); }
  // fsync, rename over the target, fsync of the folder.
  void commit();

 private:
  std::filesystem::path target_, partial_;
  int fd_ = -1;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

// A folder in the making: put files into path(), then commit(). Without commit() the destructor removes it all.
class AtomicFolder {
 public:
  // Makes "<target>.partial" (and the target's parents), replacing a leftover. `target` must be absent or an empty folder.
  explicit AtomicFolder(std::filesystem::path target);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return partial_; }
  // fsync of everything inside, rename to the target, fsync of the parent.
  void commit();

 private:
  std::filesystem::path target_, partial_;
  bool committed_ = false;
};

// Deletes a file, or a folder with all that is in it; links are deleted, never followed. Absent is fine.
// (Not std::filesystem::remove_all: LibTorch's wheel exports a copy of it that jumps to a null pointer wherever the linker finds
// LibTorch before libstdc++.)
void remove_tree(const std::filesystem::path& path);

// fsync of a folder: makes the names in it survive a power cut.
void sync_folder(const std::filesystem::path& folder);

// Bytes that an unprivileged writer may still use where `path` is or will be.
int64_t free_bytes(const std::filesystem::path& path);

// Error "<path>: needs 17.7 GiB for <what>, 3.1 GiB are free" unless that much is free.
void need_free_bytes(const std::filesystem::path& path, int64_t bytes, const std::string& what,
                     ExitCode code = ExitCode::kBadInput);

}  // namespace qkr
