// Bytes of hand-made safetensors files, a disk that fills up, and a user without rights.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <string>

namespace qkr::test {

inline std::string u64_le(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[static_cast<size_t>(i)] = static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  return u64_le(header.size()) + header + data;
}

// While it lives, no file of this process may grow beyond `bytes`: write() then fails as on a full disk (EFBIG for ENOSPC).
class FileSizeLimit {
 public:
  explicit FileSizeLimit(uint64_t bytes) {
    old_handler_ = std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_limit_);
    rlimit limit = old_limit_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    std::signal(SIGXFSZ, old_handler_);
  }

 private:
  rlimit old_limit_{};
  void (*old_handler_)(int) = nullptr;
};

// While it lives, root is nobody: permissions of files count for root's tests too.
class WithoutRights {
 public:
  WithoutRights() {
    if (::geteuid() == 0 && ::seteuid(65534) != 0) ok_ = false;
  }
  ~WithoutRights() {
    if (::getuid() == 0 && ::seteuid(0) != 0) std::abort();
  }
  bool ok() const { return ok_; }

 private:
  bool ok_ = true;
};

}  // namespace qkr::test
