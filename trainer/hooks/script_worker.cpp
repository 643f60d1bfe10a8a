#include "trainer/hooks/script_worker.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>

namespace qkr {
namespace {

std::atomic<int64_t>& abandoned() {
  static std::atomic<int64_t> count{0};
  return count;
}

}  // namespace

// Owned by both sides, so that either may go first.
struct ScriptWorker::Shared {
  std::mutex mutex;
  std::condition_variable changed;
  std::function<void()> body;
  bool busy = false, ending = false, left_behind = false;
  std::thread thread;

  void loop() {
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [&] { return busy || ending; });
      if (ending && !busy) break;
      const std::function<void()> work = std::move(body);
      lock.unlock();
      work();
      lock.lock();
      busy = false;
      changed.notify_all();
    }
    if (left_behind) --abandoned();
  }
};

ScriptWorker::ScriptWorker() : shared_(std::make_shared<Shared>()) {
  shared_->thread = std::thread([shared = shared_] { shared->loop(); });
}

ScriptWorker::~ScriptWorker() {
  bool stuck = false;
  {
    const std::lock_guard lock(shared_->mutex);
    stuck = shared_->busy;
    shared_->ending = true;
    shared_->left_behind = stuck;
    if (stuck) ++abandoned();
    shared_->changed.notify_all();
  }
  if (stuck) {
    shared_->thread.detach();
  } else {
    shared_->thread.join();
  }
}

bool ScriptWorker::run(std::function<void()> body, double limit) {
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->body = std::move(body);
    shared_->busy = true;
    shared_->changed.notify_all();
  }
  return wait(limit);
}

bool ScriptWorker::wait(double seconds) {
  std::unique_lock lock(shared_->mutex);
  return shared_->changed.wait_for(lock, std::chrono::duration<double>(seconds), [&] { return !shared_->busy; });
}

int64_t abandoned_script_threads() { return abandoned().load(); }

}  // namespace qkr
