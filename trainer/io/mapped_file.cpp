#include "trainer/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "trainer/core/error.h"

namespace qkr {

int open_for_reading(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a pipe must not wait for its writer; it means nothing for a regular file.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    if (errno == ENOENT) fail(path.string(), ": must exist, got no such file");
    fail(path.string(), ": must be readable, got ", std::strerror(errno));
  }
  struct stat info {};
  const int status = ::fstat(fd, &info);
  if (status == 0 && S_ISREG(info.st_mode)) return fd;
  ::close(fd);
  fail(path.string(), ": must be a regular file, got ",
       status == 0 && S_ISDIR(info.st_mode) ? "a folder" : "something else");
}

MappedFile::MappedFile(const std::filesystem::path& path) {
  const int fd = open_for_reading(path);
  struct stat info {};
  if (::fstat(fd, &info) != 0) {
    ::close(fd);
    fail(path.string(), ": must be readable, got ", std::strerror(errno));
  }
  size_ = static_cast<size_t>(info.st_size);
  void* memory = nullptr;
  if (size_ > 0) memory = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
  const int error = errno;
  ::close(fd);  // the mapping stays
  if (memory == MAP_FAILED) fail(path.string(), ": cannot be mapped into memory: ", std::strerror(error));
  data_ = static_cast<const char*>(memory);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<char*>(data_), size_);
}

}  // namespace qkr
