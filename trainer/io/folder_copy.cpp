#include "trainer/io/folder_copy.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/parallel.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/mapped_file.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kPiece = 64 << 20;   // of one kernel copy
constexpr int64_t kBuffer = 4 << 20;   // where bytes must pass through memory

[[noreturn]] void fail_writing(const fs::path& path, int error) {
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  fail_run(path.string(), ": must be written, got ", std::strerror(error),
           full ? concat(" (", human_bytes(free_bytes(path)), " are free)") : "");
}

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

int open_for_writing(const fs::path& path, int flags) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0666);
  if (fd < 0) fail_writing(path, errno);
  return fd;
}

void write_at(int fd, std::string_view bytes, int64_t offset, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(fd, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_writing(path, errno);
    bytes.remove_prefix(static_cast<size_t>(written));
    offset += written;
  }
}

// Up to buffer.size() bytes at `offset`; Error at the end of the file, which had more when its size was asked.
std::string_view read_at(int fd, std::string& buffer, int64_t bytes, int64_t offset, const fs::path& path) {
  const size_t wanted = static_cast<size_t>(std::min<int64_t>(bytes, kBuffer));
  buffer.resize(kBuffer);
  for (;;) {
    const ssize_t got = ::pread(fd, buffer.data(), wanted, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(path.string(), ": must be readable, got ", std::strerror(errno));
    if (got == 0) fail_run(path.string(), ": must keep its size while it is read, got an end at byte ", offset);
    return {buffer.data(), static_cast<size_t>(got)};
  }
}

int64_t size_of(int fd, const fs::path& path) {
  struct stat info {};
  if (::fstat(fd, &info) != 0) fail(path.string(), ": must be readable, got ", std::strerror(errno));
  return info.st_size;
}

std::string bytes_sha256(int fd, int64_t begin, int64_t end, const fs::path& path, const CopyWatch& watch) {
  Sha256 sha;
  std::string buffer;
  for (int64_t offset = begin; offset < end;) {
    const std::string_view bytes = read_at(fd, buffer, end - offset, offset, path);
    sha.add(bytes);
    offset += static_cast<int64_t>(bytes.size());
    if (watch) watch(static_cast<int64_t>(bytes.size()));
  }
  return sha.hex();
}

// What file systems say that cannot copy from one file to the other by themselves.
bool must_pass_through_memory(int error) {
  return error == EXDEV || error == EINVAL || error == ENOSYS || error == EOPNOTSUPP || error == EPERM;
}

struct Copy {
  const fs::path& from;
  const fs::path& to;
  const CopyWatch& watch;
  int in, out;
  bool by_kernel = true;
  std::string buffer = {};

  void extent(int64_t offset, int64_t end) {
    while (offset < end) {
      const int64_t done = by_kernel ? kernel_piece(offset, end) : memory_piece(offset, end);
      if (done == 0) continue;
      ::sync_file_range(out, offset, done, SYNC_FILE_RANGE_WRITE);  // the disk works while the copy goes on; a hint
      offset += done;
      if (watch) watch(done);
    }
  }

 private:
  int64_t kernel_piece(int64_t offset, int64_t end) {
    off_t read_from = offset, write_to = offset;
    const ssize_t done = ::copy_file_range(in, &read_from, out, &write_to, std::min(kPiece, end - offset), 0);
    if (done > 0 || (done < 0 && errno == EINTR)) return std::max<int64_t>(done, 0);
    if (done < 0 && !must_pass_through_memory(errno)) fail_writing(to, errno);
    by_kernel = false;  // 0 bytes too: read_at() tells whether the file really ends here
    return 0;
  }

  int64_t memory_piece(int64_t offset, int64_t end) {
    const std::string_view bytes = read_at(in, buffer, end - offset, offset, from);
    write_at(out, bytes, offset, to);
    return static_cast<int64_t>(bytes.size());
  }
};

FolderFile describe_file(const fs::path& path, const fs::path& folder) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) fail(path.string(), ": must be readable, got ", std::strerror(errno));
  if (!S_ISREG(info.st_mode)) fail(path.string(), ": must be a file or a folder, got a link to a folder or a special file");
  const int64_t size = info.st_size, allocated = static_cast<int64_t>(info.st_blocks) * 512;
  return {path.lexically_relative(folder), size, std::min(size, allocated)};
}

}  // namespace

std::vector<FolderFile> list_folder(const fs::path& folder) {
  std::vector<FolderFile> files;
  std::error_code error;
  fs::recursive_directory_iterator entry(folder, error), end;
  for (; !error && entry != end; entry.increment(error)) {
    const fs::file_status status = entry->symlink_status(error);
    if (!error && !fs::is_directory(status)) files.push_back(describe_file(entry->path(), folder));
  }
  if (error) fail(folder.string(), ": must be a readable folder, got ", error.message());
  std::sort(files.begin(), files.end(), [](const FolderFile& a, const FolderFile& b) { return a.name < b.name; });
  return files;
}

void copy_file_data(const fs::path& from, const fs::path& to, const CopyWatch& watch) {
  const Descriptor in(open_for_reading(from)), out(open_for_writing(to, O_CREAT | O_TRUNC));
  const int64_t size = size_of(in.get(), from);
  if (::ftruncate(out.get(), size) != 0) fail_writing(to, errno);
  Copy copy{from, to, watch, in.get(), out.get()};
  for (int64_t offset = 0; offset < size;) {
    int64_t data = ::lseek(in.get(), offset, SEEK_DATA);
    if (data < 0) data = errno == ENXIO ? size : offset;  // nothing but a hole is left; or holes are not told
    data = std::min<int64_t>(data, size);
    if (watch && data > offset) watch(data - offset);
    int64_t hole = data < size ? ::lseek(in.get(), data, SEEK_HOLE) : data;
    if (hole < 0 || hole > size) hole = size;
    copy.extent(data, hole);
    offset = hole;
  }
}

bool link_file(const fs::path& from, const fs::path& to) {
  if (::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) == 0) return true;
  if (errno == EXDEV || errno == EPERM || errno == EMLINK || errno == EACCES || errno == EOPNOTSUPP) return false;
  fail_writing(to, errno);
}

void overwrite_bytes(const fs::path& file, int64_t offset, std::string_view bytes) {
  const Descriptor out(open_for_writing(file, 0));
  write_at(out.get(), bytes, offset, file);
}

std::string file_sha256(const fs::path& file, const CopyWatch& watch) {
  const Descriptor in(open_for_reading(file));
  return bytes_sha256(in.get(), 0, size_of(in.get(), file), file, watch);
}

std::vector<std::string> files_digests(const std::vector<fs::path>& files) {
  struct Piece {
    const fs::path& file;
    int64_t begin, end;
  };
  std::vector<Piece> pieces;
  for (const fs::path& file : files) {
    const Descriptor in(open_for_reading(file));
    const int64_t size = size_of(in.get(), file);
    for (int64_t begin = 0; begin < size; begin += kDigestPiece) pieces.push_back({file, begin, std::min(begin + kDigestPiece, size)});
  }
  std::vector<std::string> of_pieces(pieces.size());
  for_all(pieces.size(), [&](size_t i) {
    const Descriptor in(open_for_reading(pieces[i].file));
    of_pieces[i] = bytes_sha256(in.get(), pieces[i].begin, pieces[i].end, pieces[i].file, {});
  });
  std::vector<std::string> digests;
  size_t piece = 0;
  for (const fs::path& file : files) {
    Sha256 sha;
    for (; piece < pieces.size() && &pieces[piece].file == &file; ++piece) sha.add(of_pieces[piece]);
    digests.push_back(sha.hex());
  }
  return digests;
}

}  // namespace qkr
