// Softmax attention of a decode step: one more token of each of several sequences, each over its own slot of a cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/model/cache.h"

namespace qkr {

// What every softmax layer of one step needs to know about its B slots.
struct StepRows {
  at::Tensor rows;                   // [B] int64: where the token goes among the B * capacity rows
  at::Tensor cu_queries, cu_slots;   // [B + 1] int32: 0, 1, ... B; 0, capacity, ... B * capacity
  at::Tensor used;                   // [B] int32: tokens of each sequence, the new one included
  std::vector<int64_t> host_used;    // [B]: the same, read where `flash` is false
  int64_t capacity = 0;
  bool flash = false;                // variable-length flash attention serves: nothing is read by the host
};

// `cache` needs its lengths, host_lengths and capacity; flash: step_is_recordable of the model.
StepRows step_rows(const BatchCache& cache, bool flash);

// q [B, H, D], k and v [B, KV, D] → [B, H, D]. k and v are put into the slots (cache.k, cache.v [B, capacity, KV, D]); query b
// reads slot b up to its own token, and of that the last `window` if window > 0.
at::Tensor attend_step(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const LayerCache& cache,
                       const StepRows& step, int64_t window);

}  // namespace qkr
