// A number of a file as an integer. A cast of what int64 cannot hold is undefined, and files hold anything.
#pragma once

#include <cstdint>
#include <limits>

namespace qkr {

// Towards zero; beyond int64 its nearest end, and 0 for a NaN.
inline int64_t whole(double value) {
  constexpr double kEnd = 9223372036854775808.0;  // 2^63
  if (value >= kEnd) return std::numeric_limits<int64_t>::max();
  if (value < -kEnd) return std::numeric_limits<int64_t>::min();
  return value == value ? static_cast<int64_t>(value) : 0;
}

}  // namespace qkr
