// The folder that qk-restore writes, while it is in the making.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/apps/offline.h"
#include "trainer/io/atomic.h"
#include "trainer/io/folder_copy.h"

namespace qkr {

// Throws Error (run failed) once a signal has asked for the end.
void check_not_stopped();

// The tuned folder's files, copied by a thread of their own from the constructor on, so that the disk works while restored
// weights are computed; with options.link nothing is copied before it is known whether it changes. One caller at a time.
class OfflineOutput {
 public:
  // The arguments must outlive the object. Error if the disk is too small or the folder cannot be made.
  OfflineOutput(const OfflineOptions& options, Console& console);
  ~OfflineOutput();  // stops the copying; without commit() nothing is left
  OfflineOutput(const OfflineOutput&) = delete;
  OfflineOutput& operator=(const OfflineOutput&) = delete;

  // Replaces the bytes of a tensor once its file is there; `tuned` is the file that holds it.
  void write(const SafetensorsFile& tuned, const std::string& name, std::string_view bytes);
  // Every file that nothing was written to: copied, or linked.
  void carry_the_rest();
  // Adds restore.json, makes all of it durable and gives the folder its name.
  void commit(const std::string& record);

  const std::map<std::filesystem::path, std::string>& states() const { return states_; }  // copied, linked or restored
  std::filesystem::path path_of(const std::filesystem::path& file) const { return folder_->path() / file; }

 private:
  void copy(const std::filesystem::path& file);
  void copy_all();
  void wait_for(const std::filesystem::path& file);
  void show_progress();

  const OfflineOptions& options_;
  Console& console_;
  std::vector<FolderFile> files_;
  std::map<std::filesystem::path, std::string> states_;
  std::optional<AtomicFolder> folder_;
  int64_t total_ = 0;
  std::atomic<int64_t> done_{0};
  std::atomic<bool> abandoned_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::filesystem::path> copied_;  // by the thread; under mutex_
  std::future<void> copier_;                // last: it uses all the others
};

}  // namespace qkr
