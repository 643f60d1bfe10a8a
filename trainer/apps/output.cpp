#include "trainer/apps/output.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "trainer/core/error.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLocked = "log.jsonl";  // never replaced while a run goes on

std::unique_ptr<FileLock> lock_of(const fs::path& folder) {
  return std::make_unique<FileLock>(
      folder / kLocked,
      folder.string() + ": output must be of one run at a time, got one that another process is at work in");
}

// What a start leaves that was killed before its config.yaml was there counts for nothing.
bool is_unused(const fs::path& folder) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const fs::path name = entry->path().filename();
    const bool trace = name == "config.yaml.partial" || (name == kLocked && entry->file_size(error) == 0);
    if (!trace) return false;
  }
  if (error) fail(folder.string(), ": output must be a readable folder, got ", error.message());
  return true;
}

void require_unused(const fs::path& folder) {
  if (!is_unused(folder))
    fail(folder.string(), ": output must be empty or absent, got a folder with files (--resume goes on with it)");
}

// The folder itself, or the nearest one above it, in which it will be made.
void require_writable(const fs::path& folder) {
  fs::path there = fs::absolute(folder);
  std::error_code error;
  while (fs::symlink_status(there, error).type() == fs::file_type::not_found && there.has_relative_path())
    there = there.parent_path();
  if (!fs::is_directory(there, error)) {
    const bool is_none = !error || error == std::errc::no_such_file_or_directory || error == std::errc::not_a_directory;
    fail(folder.string(), ": output must be a folder that can be made, got ",
         is_none ? there.string() + ", which is none" : error.message());
  }
  if (::access(there.c_str(), W_OK | X_OK) != 0)
    fail(folder.string(), ": output must be writable, got ", std::strerror(errno), " for ", there.string());
}

}  // namespace

void check_output(Prepared& p, bool resume) {
  const fs::path folder = p.config.output;
  std::error_code error;
  const bool there = fs::exists(folder, error);
  if (there && !fs::is_directory(folder)) fail(folder.string(), ": output must be a folder, got a file");
  require_writable(folder);
  if (!resume) {
    if (there) require_unused(folder);
    return;
  }
  const bool used = there && !is_unused(folder);
  if (!used)
    fail(folder.string(), ": --resume needs the folder of an earlier start, got ",
         there ? "an empty folder" : "nothing");
  if (!fs::exists(folder / "config.yaml"))
    fail(folder.string(), ": --resume needs the folder of an earlier start, got one without config.yaml");
  p.lock = lock_of(folder);
  p.resume_from = latest_checkpoint(folder / "checkpoints");
  p.resuming = true;
}

void take_output(Prepared& p) {
  if (p.lock) return;
  const fs::path folder = p.config.output;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(folder.string(), ": output must be a folder that can be made, got ", error.message());
  p.lock = lock_of(folder);
  require_unused(folder);
}

}  // namespace qkr
