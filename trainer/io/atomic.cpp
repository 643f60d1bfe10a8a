#include "trainer/io/atomic.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "trainer/core/text.h"
#include "trainer/io/mapped_file.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

fs::path partial_of(fs::path target) {
  if (!target.has_filename()) target = target.parent_path();  // "dir/" is "dir"
  return target += ".partial";
}

fs::path parent_of(const fs::path& path) { return path.has_parent_path() ? path.parent_path() : fs::path("."); }

[[noreturn]] void fail_writing(const fs::path& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  fail_run(path.string(), ": must be written, got ", std::strerror(error),
           full ? concat(" (", human_bytes(free_bytes(path)), " are free)") : "");
}

// 0, or -1 with errno.
int sync_path(const char* path, int flags) {
  const int fd = ::open(path, flags | O_CLOEXEC);
  if (fd < 0) return -1;
  const int status = ::fsync(fd);
  const int error = errno;
  ::close(fd);
  errno = error;
  // Some network file systems cannot sync a folder and say EINVAL; there is nothing better to do there.
  return status == 0 || error == EINVAL ? 0 : -1;
}

// For nftw(), which walks a tree with a folder after what it holds, and stops at the first entry that gives not 0.
constexpr int kOpenFolders = 16;

int remove_entry(const char* path, const struct stat*, int, struct FTW*) { return ::remove(path); }

int sync_entry(const char* path, const struct stat*, int type, struct FTW*) {
  if (type == FTW_F) return sync_path(path, O_RDONLY);
  return type == FTW_DP ? sync_path(path, O_RDONLY | O_DIRECTORY) : 0;
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) fail_writing(to, errno);
  sync_folder(parent_of(to));
}

// A folder that is there already must hold nothing; rename() then replaces it in one step.
void require_free_target(const fs::path& target) {
  std::error_code error;
  const auto status = fs::symlink_status(target, error);
  if (!fs::exists(status)) return;  // or out of reach: making the folder will say so
  if (fs::is_directory(status) && fs::is_empty(target, error) && !error) return;
  fail(target.string(), ": must not exist yet, got ", fs::is_directory(status) ? "a folder that is not empty" : "a file");
}

}  // namespace

std::string read_text_file(const fs::path& path, size_t max_bytes) {
  const MappedFile file(path);
  if (file.size() > max_bytes) {
    fail(path.string(), ": must be at most ", human_bytes(static_cast<int64_t>(max_bytes)), ", got ",
         human_bytes(static_cast<int64_t>(file.size())));
  }
  return std::string(file.bytes());
}

void write_all(int fd, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_writing(path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

AtomicFile::AtomicFile(fs::path target) : target_(std::move(target)), partial_(partial_of(target_)) {
  std::error_code ignored;  // what is wrong with the path, open() says
  if (fs::is_directory(target_, ignored)) fail(target_.string(), ": must be a file to write, got a folder");
  ::unlink(partial_.c_str());  // a leftover; never written through, as it may be a link
  fd_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ >= 0) return;
  if (errno == ENOSPC || errno == EDQUOT) fail_writing(target_, errno);
  fail(target_.string(), ": must be writable, got ", std::strerror(errno));
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(partial_.c_str());
}

void AtomicFile::commit() {
  if (::fsync(fd_) != 0) fail_writing(target_, errno);
  rename_or_fail(partial_, target_);
  ::close(fd_);
  fd_ = -1;
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

AtomicFolder::AtomicFolder(fs::path target) : target_(std::move(target)), partial_(partial_of(target_)) {
  if (!target_.has_filename()) target_ = target_.parent_path();
  require_free_target(target_);
  remove_tree(partial_);
  std::error_code error;
  fs::create_directories(partial_, error);
  if (error) fail(target_.string(), ": must be a folder that can be made, got ", error.message());
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) ::nftw(partial_.c_str(), remove_entry, kOpenFolders, FTW_DEPTH | FTW_PHYS);
}

void AtomicFolder::commit() {
  if (::nftw(partial_.c_str(), sync_entry, kOpenFolders, FTW_DEPTH | FTW_PHYS) != 0) fail_writing(target_, errno);
  rename_or_fail(partial_, target_);
  committed_ = true;
}

void remove_tree(const fs::path& path) {
  if (::nftw(path.c_str(), remove_entry, kOpenFolders, FTW_DEPTH | FTW_PHYS) == 0) return;
  if (errno != ENOENT && errno != ENOTDIR) fail_run(path.string(), ": must be deleted, got ", std::strerror(errno));
}

void sync_folder(const fs::path& folder) {
  if (sync_path(folder.c_str(), O_RDONLY | O_DIRECTORY) != 0) fail_writing(folder, errno);
}

int64_t free_bytes(const fs::path& path) {
  std::error_code error;
  fs::path there = fs::absolute(path, error);
  while (!fs::exists(there, error) && there.has_relative_path()) there = there.parent_path();
  struct statvfs info {};
  if (::statvfs(there.c_str(), &info) != 0) {
    fail(path.string(), ": must lie on a readable file system, got ", std::strerror(errno));
  }
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

void need_free_bytes(const fs::path& path, int64_t bytes, const std::string& what, ExitCode code) {
  const int64_t free = free_bytes(path);
  if (bytes <= free) return;
  throw Error(code, concat(path.string(), ": needs ", human_bytes(bytes), " for ", what, ", ", human_bytes(free), " are free"));
}

}  // namespace qkr
