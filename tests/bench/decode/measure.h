// What bench_decode measures.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <vector>

namespace qkr::bench {

struct DecodeBench {
  std::string model = "2b";
  int64_t tokens = 32768, chunk = 0, prompt = 8192, steps = 40;
  std::vector<int64_t> batches = {1, 8, 32};
  bool floors_alone = false;  // of prefill, the products and the attention only
  at::Device device = at::kCPU;
};

// Prints as it goes: prefill (first and second time), the floors, their ratio, peak memory; milliseconds a decoded token with and
// without a recorded step. Error: recorded and launched steps give different tokens.
void run(const DecodeBench& bench);

}  // namespace qkr::bench
