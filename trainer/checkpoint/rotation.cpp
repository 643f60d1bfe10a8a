#include <algorithm>
#include <system_error>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kPrefix = "step-";
constexpr std::string_view kPartial = ".partial";

// 200 for "step-000200"; nothing for any other name.
std::optional<int64_t> step_of(std::string_view name) {
  if (!starts_with(name, kPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kPrefix.size());
  if (digits.size() < 6 || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string_view::npos) return std::nullopt;
  return std::stoll(std::string(digits));
}

struct Found {
  int64_t step;
  fs::path path;
};

// The checkpoints of a folder by step, or all folders that have the name of one; none if there is no such folder.
std::vector<Found> find_checkpoints(const fs::path& dir, bool all = false) {
  std::vector<Found> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(dir, error)) {
    const auto step = step_of(entry.path().filename().string());
    if (step && entry.is_directory() && (all || fs::exists(entry.path() / "progress.json"))) found.push_back({*step, entry.path()});
  }
  if (error && error != std::errc::no_such_file_or_directory) {
    fail(dir.string(), ": must be a readable folder of checkpoints, got ", error.message());
  }
  std::sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.step < b.step; });
  return found;
}

// Renamed first, so that a kill between two unlinks leaves no folder that looks like a checkpoint.
void delete_checkpoint(const fs::path& folder) {
  fs::path doomed = folder;
  doomed += kPartial;
  remove_tree(doomed);
  std::error_code error;
  fs::rename(folder, doomed, error);
  if (error) fail_run(folder.string(), ": must be deleted, got ", error.message());
  remove_tree(doomed);
}

}  // namespace

std::optional<fs::path> latest_checkpoint(const fs::path& checkpoints_dir) {
  const std::vector<Found> found = find_checkpoints(checkpoints_dir);
  if (found.empty()) return std::nullopt;
  return found.back().path;
}

void prune_checkpoints(const fs::path& checkpoints_dir, int64_t keep) {
  if (keep < 1) fail(checkpoints_dir.string(), ": checkpoints to keep must be at least 1, got ", keep);
  const std::vector<Found> found = find_checkpoints(checkpoints_dir);
  if (found.empty()) return;
  read_progress(found.back().path);  // throws, and so deletes nothing, if a file is missing or short
  sync_folder(checkpoints_dir);      // its name is on the disk before an older one goes
  for (size_t i = 0; i + static_cast<size_t>(keep) < found.size(); ++i) delete_checkpoint(found[i].path);

  std::vector<fs::path> leftovers;
  for (const auto& entry : fs::directory_iterator(checkpoints_dir)) {
    const std::string name = entry.path().filename().string();
    if (ends_with(name, kPartial) && step_of(name.substr(0, name.size() - kPartial.size()))) leftovers.push_back(entry.path());
  }
  for (const fs::path& leftover : leftovers) remove_tree(leftover);
}

void drop_checkpoints_after(const fs::path& checkpoints_dir, int64_t step) {
  for (const Found& checkpoint : find_checkpoints(checkpoints_dir, /*all=*/true)) {
    if (checkpoint.step > step) delete_checkpoint(checkpoint.path);
  }
}

}  // namespace qkr
