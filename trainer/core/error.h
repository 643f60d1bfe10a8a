// The one exception type of the trainer. Its kind is the exit code that apps end with.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace qkr {

// 0 done, 1 run failed, 2 usage, configuration or input, 3 gate failed, 4 stopped by a signal after saving.
enum class ExitCode : int { kDone = 0, kRunFailed = 1, kBadInput = 2, kGateFailed = 3, kStopped = 4 };

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& what) : std::runtime_error(what), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

// The parts written one after the other, as operator<< writes them.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

// The user's input is wrong. One line of the form "<file>: <place>: must <rule>, got <value>".
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(ExitCode::kBadInput, concat(parts...));
}

// The run went wrong after it began: a NaN, a full disk, a device that gave up.
template <class... Parts>
[[noreturn]] void fail_run(const Parts&... parts) {
  throw Error(ExitCode::kRunFailed, concat(parts...));
}

}  // namespace qkr
