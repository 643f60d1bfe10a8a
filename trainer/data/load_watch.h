// How far Dataset::load has come, for whoever waits for it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace qkr {

struct LoadProgress {
  int64_t rows_done = 0, rows = 0;
  int64_t bytes_done = 0, bytes = 0;  // of the rows as they stand in their files
  double seconds = 0;                 // since the first row
  std::string largest;                // "<file>:<line>" of the largest row at work now; empty for none
  int64_t largest_bytes = 0;
};

// Called every second, on a thread of its own while load() waits; must not throw. Of a row it is only known whether it is done.
using LoadWatch = std::function<void(const LoadProgress&)>;

// Keeps the account, from any thread, and calls `watch` (which may be empty) until it is destroyed. `bytes`: of each row.
class LoadWatcher {
 public:
  using PlaceOf = std::function<std::string(size_t row)>;

  LoadWatcher(LoadWatch watch, std::vector<int64_t> bytes, PlaceOf place_of, std::chrono::milliseconds every = std::chrono::seconds(1));
  ~LoadWatcher();
  LoadWatcher(const LoadWatcher&) = delete;
  LoadWatcher& operator=(const LoadWatcher&) = delete;

  void begin(size_t row);
  void end(size_t row);

 private:
  void run();
  LoadProgress progress(double seconds) const;

  const LoadWatch watch_;
  const std::vector<int64_t> bytes_;
  const PlaceOf place_of_;
  const std::chrono::milliseconds every_;
  LoadProgress so_far_;  // this and what follows under the mutex
  std::set<size_t> at_work_;
  std::mutex mutex_;
  std::condition_variable over_changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace qkr
