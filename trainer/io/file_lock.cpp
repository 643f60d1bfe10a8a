#include "trainer/io/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "trainer/core/error.h"

namespace qkr {

FileLock::FileLock(const std::filesystem::path& file, const std::string& in_use) {
  // For writing: NFS gives an exclusive lock to nothing else.
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(file.string(), ": must be writable, got ", std::strerror(errno));
  int status = 0;
  do {
    status = ::flock(fd_, LOCK_EX | LOCK_NB);
  } while (status != 0 && errno == EINTR);
  if (status == 0 || errno != EWOULDBLOCK) return;
  ::close(fd_);
  fail(in_use);
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace qkr
