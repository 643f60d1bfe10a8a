// What a sequence leaves behind for its next token. A DecoderCache belongs to one sequence, a BatchCache to several.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qkr {

struct LayerCache {
  at::Tensor k, v;   // softmax: [capacity, KV, D], model dtype; rows past `length` are not yet written. k is stored after RoPE
  at::Tensor state;  // Lightning: [H, D, D] fp32 (key x value); undefined before the first token
  bool keep_q = false;
  at::Tensor q;      // softmax, with keep_q: the last call's queries as attention took them, [T, H, D]
};

struct DecoderCache {
  std::vector<LayerCache> layers;
  int64_t length = 0;    // tokens in the cache
  int64_t capacity = 0;  // rows that k and v are first given; they grow by half when that is too small
};

// B sequences, each with its own length, in slots of one capacity that do not move: what a recorded step needs.
struct BatchCache {
  std::vector<LayerCache> layers;     // k, v [B, capacity, KV, D]; state [B, H, D, D]
  at::Tensor lengths;                 // [B] int64 where the weights are: tokens in each slot
  std::vector<int64_t> host_lengths;  // the same, for kernels that are told lengths by the host; not kept up by a recorded step
  int64_t capacity = 0;
};

}  // namespace qkr
