// How long things took.
#pragma once

#include <chrono>
#include <utility>

namespace qkr {

class Lap {
 public:
  // Since the last call, or since this was made.
  double seconds() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(last_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace qkr
