// One process at a time: an advisory lock on a file, which ends with the object or with the process, however that ends.
#pragma once

#include <filesystem>
#include <string>

namespace qkr {

class FileLock {
 public:
  // Makes the file if it is absent; what it holds is not touched. Error (bad input) "<in_use>" if another process has
  // the lock. Other machines see it where the file system carries locks (NFS, Lustre with flock); where it knows none,
  // nothing is locked.
  FileLock(const std::filesystem::path& file, const std::string& in_use);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace qkr
