// What the device does at best, measured before the operators and in the same process.
#pragma once

#include <string>

#include "tests/bench/support.h"

namespace qkr::bench {

struct Limits {
  double copy = 0;                        // bytes a second, read and written, of a copy within the device
  double fp64 = 0, fp32 = 0, bf16 = 0;    // operations a second of one large product
  std::string gemm_shape, device, clocks;  // clocks while products run; "" where nothing tells them

  double of(Limit limit) const;  // bytes or operations a second
};

Limits measure_limits();

// "12.3 TF/s" or "3.61 TB/s", GF and GB below one.
std::string rate_text(Limit limit, double per_second);

}  // namespace qkr::bench
