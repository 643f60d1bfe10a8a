#include "trainer/apps/offline_output.h"

#include <algorithm>
#include <chrono>

#include "trainer/apps/process.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr const char* kRecord = "restore.json";  // ours takes the place of one that the tuned folder has

}  // namespace

void check_not_stopped() {
  if (stop_asked()) fail_run("stopped by a signal, nothing was written");
}

OfflineOutput::OfflineOutput(const OfflineOptions& options, Console& console)
    : options_(options), console_(console), files_(list_folder(options.tuned)) {
  std::erase_if(files_, [](const FolderFile& file) { return file.name == kRecord; });
  int64_t needed = 0;
  for (const FolderFile& file : files_) {
    total_ += file.size;
    if (!options.link || file.name.extension() == ".safetensors") needed += file.allocated;  // at most
  }
  need_free_bytes(options.out, needed, "the restored model");
  folder_.emplace(options.out);
  if (!options.link) copier_ = std::async(std::launch::async, [this] { copy_all(); });
}

OfflineOutput::~OfflineOutput() {
  abandoned_ = true;
  if (copier_.valid()) copier_.wait();
}

void OfflineOutput::write(const SafetensorsFile& tuned, const std::string& name, std::string_view bytes) {
  const fs::path file = fs::path(tuned.file()).filename();
  if (states_.count(file) == 0) {
    if (options_.link) {
      copy(file);
    } else {
      wait_for(file);
    }
  }
  states_[file] = "restored";
  overwrite_bytes(path_of(file), tuned.offset(name), bytes);
}

void OfflineOutput::carry_the_rest() {
  for (const FolderFile& file : files_) {
    if (states_.count(file.name) != 0) continue;
    check_not_stopped();
    states_[file.name] = "copied";
    if (!options_.link) {
      wait_for(file.name);
      continue;
    }
    fs::create_directories(path_of(file.name).parent_path());
    if (link_file(fs::path(options_.tuned) / file.name, path_of(file.name))) {
      states_[file.name] = "linked";
      done_ += file.size;
      show_progress();
    } else {
      copy(file.name);
    }
  }
}

void OfflineOutput::commit(const std::string& record) {
  write_file_atomically(path_of(kRecord), record);
  console_.status("writing to the disk");
  check_not_stopped();
  folder_->commit();
}

void OfflineOutput::copy(const fs::path& file) {
  copy_file_data(fs::path(options_.tuned) / file, path_of(file), [this](int64_t bytes) {
    check_not_stopped();
    done_ += bytes;
    show_progress();
  });
}

// Of the thread: it prints nothing.
void OfflineOutput::copy_all() {
  const auto tell = [this](const fs::path& file) {
    const std::lock_guard lock(mutex_);
    if (!file.empty()) copied_.insert(file);
    changed_.notify_all();
  };
  try {
    for (const FolderFile& file : files_) {
      fs::create_directories(path_of(file.name).parent_path());
      copy_file_data(fs::path(options_.tuned) / file.name, path_of(file.name), [this](int64_t bytes) {
        check_not_stopped();
        if (abandoned_) fail_run("abandoned");
        done_ += bytes;
      });
      tell(file.name);
    }
  } catch (...) {
    tell({});
    throw;
  }
}

void OfflineOutput::wait_for(const fs::path& file) {
  constexpr std::chrono::milliseconds kGlance(100);
  std::unique_lock lock(mutex_);
  while (copied_.count(file) == 0) {
    lock.unlock();
    check_not_stopped();
    show_progress();
    const bool ended = !copier_.valid() || copier_.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
    if (ended && copier_.valid()) copier_.get();  // throws what stopped it
    lock.lock();
    if (copied_.count(file) != 0) return;
    if (ended) fail(options_.tuned, "/", file.string(), ": must be a file of the folder, got another place");
    changed_.wait_for(lock, kGlance);
  }
}

void OfflineOutput::show_progress() {
  console_.status("copying " + progress_bar(done_, total_) + " " + human_bytes(done_) + " of " + human_bytes(total_));
}

}  // namespace qkr
