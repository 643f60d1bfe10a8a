// What a sequence leaves behind for its next token. A cache belongs to one sequence.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qkr {

struct LayerCache {
  at::Tensor k, v;   // softmax: [capacity, KV, D], model dtype; rows past `length` are not yet written. k is stored after RoPE
  at::Tensor state;  // Lightning: [H, D, D] fp32 (key x value); undefined before the first token
};

struct DecoderCache {
  std::vector<LayerCache> layers;
  int64_t length = 0;    // tokens in the cache
  int64_t capacity = 0;  // rows that k and v are first given; they grow by half when that is too small
};

}  // namespace qkr
