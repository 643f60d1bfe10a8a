#include "trainer/data/load_watch.h"

#include <numeric>
#include <utility>

#include "trainer/core/lap.h"

namespace qkr {

LoadWatcher::LoadWatcher(LoadWatch watch, std::vector<int64_t> bytes, PlaceOf place_of, std::chrono::milliseconds every)
    : watch_(std::move(watch)), bytes_(std::move(bytes)), place_of_(std::move(place_of)), every_(every) {
  if (!watch_) return;
  so_far_.rows = static_cast<int64_t>(bytes_.size());
  so_far_.bytes = std::accumulate(bytes_.begin(), bytes_.end(), int64_t{0});
  thread_ = std::thread([this] { run(); });
}

LoadWatcher::~LoadWatcher() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    over_ = true;
  }
  over_changed_.notify_one();
  thread_.join();
}

void LoadWatcher::begin(size_t row) {
  if (!watch_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  at_work_.insert(row);
}

void LoadWatcher::end(size_t row) {
  if (!watch_) return;
  const std::lock_guard<std::mutex> lock(mutex_);
  at_work_.erase(row);
  ++so_far_.rows_done;
  so_far_.bytes_done += bytes_[row];
}

void LoadWatcher::run() {
  Lap lap;
  double seconds = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!over_changed_.wait_for(lock, every_, [this] { return over_; })) {
    const LoadProgress now = progress(seconds += lap.seconds());
    lock.unlock();  // the rows go on while somebody prints
    watch_(now);
    lock.lock();
  }
}

LoadProgress LoadWatcher::progress(double seconds) const {
  LoadProgress now = so_far_;
  now.seconds = seconds;
  for (const size_t row : at_work_) {
    if (bytes_[row] <= now.largest_bytes) continue;
    now.largest = place_of_(row);
    now.largest_bytes = bytes_[row];
  }
  return now;
}

}  // namespace qkr
