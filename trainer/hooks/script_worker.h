// A thread for calls that may never come back.
#pragma once

#include <chrono>
#include <functional>
#include <memory>

namespace qkr {

class ScriptWorker {
 public:
  ScriptWorker();
  // Ends the thread. One that is stuck in a call is left behind: it must own all that it works on.
  ~ScriptWorker();
  ScriptWorker(const ScriptWorker&) = delete;
  ScriptWorker& operator=(const ScriptWorker&) = delete;

  // Runs `body`, which must not throw, on the thread. False if it has not come back in `limit` seconds; then it goes
  // on, and until it ends no other may be begun.
  bool run(std::function<void()> body, double limit);
  // Waits again for a call that was late. True if it came back.
  bool wait(double seconds);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

// Threads of this process that were left behind and still run. While there is one, a program ends by _exit: static
// objects that the thread uses must not go before it.
int64_t abandoned_script_threads();

}  // namespace qkr
