// How much of a head's attention falls on a range of keys (the needle), for a few queries: for query m and head h, with
// j over the keys that the query sees, 0 <= j <= min(positions[m], N - 1), and KV head h / (H / KV):
//   p[j] = exp(scale <q[m, h], k[j]>),   mass[h, m] = sum of p[j] over ranges[m][0] <= j < ranges[m][1] / sum of all p[j]
// 0 where the query sees no key. What a range has beyond the keys that are seen counts nothing.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// T: Bf16 or float. Strides are in elements; the last axis is dense.
template <class T>
struct NeedleAttentionParams {
  const T* q = nullptr;                // [M, H, D], row m of head h at q + m * q_row + h * q_head
  const T* k = nullptr;                // [N, KV, D]
  const int64_t* positions = nullptr;  // [M], any value
  const int64_t* ranges = nullptr;     // [M, 2], any value
  float* mass = nullptr;               // [H, M]
  int64_t queries = 0, heads = 0, kv_heads = 1, keys = 0, head_dim = 0;
  int64_t q_row = 0, q_head = 0, k_row = 0, k_head = 0;
  float scale = 1.f;
};

}  // namespace qkr
