// What a thread, a warp and a block know of a row's softmax: a share of the keys, relative to its own largest exponent.
#pragma once

#include <cstdint>

#include "csrc/core/reduce.cuh"
#include "csrc/needle_attention/params.h"

namespace qkr {

// 2^x for x <= 0, to 2 ulp; what is below 2^-126 becomes 0.
__device__ inline float power_of_2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Exponents are of base 2. No key yet: `top` far below any product, sums 0, so that combining needs no branch.
struct AttentionShare {
  float top = -1e30f, all = 0.f, part = 0.f;

  __device__ void add(const AttentionShare& other) {
    const float high = fmaxf(top, other.top), mine = power_of_2(top - high), theirs = power_of_2(other.top - high);
    all = all * mine + other.all * theirs;
    part = part * mine + other.part * theirs;
    top = high;
  }

  // Room for exponents up to `high`.
  __device__ void raise(float high) {
    if (high <= top) return;
    const float shrink = power_of_2(top - high);
    top = high, all *= shrink, part *= shrink;
  }

  // The share of the lanes that differ in the bits of kFirst, 2 kFirst, ... kLast, in all of them, in a fixed order.
  template <int kFirst, int kLast>
  __device__ void add_lanes() {
#pragma unroll
    for (int lane = kFirst; lane <= kLast; lane *= 2) {
      AttentionShare other;
      other.top = __shfl_xor_sync(0xffffffffu, top, lane);
      other.all = __shfl_xor_sync(0xffffffffu, all, lane);
      other.part = __shfl_xor_sync(0xffffffffu, part, lane);
      add(other);
    }
  }
};

// A row is one query in one head of a KV head's group: query row / group, head kv * group + row % group.
// What it sees and what counts, cut to the keys that are there; a row that is not there sees all and counts nothing.
struct RowLimits {
  int last, begin, end;  // keys 0 .. last are seen, begin .. end - 1 counted; last = -1: none
};

template <class T>
__device__ inline RowLimits row_limits(const NeedleAttentionParams<T>& p, int64_t row, int64_t group) {
  const int64_t query = row / group;
  if (query >= p.queries) return {0x7fffffff, 0, 0};
  const int64_t last = max(int64_t{-1}, min(p.positions[query], p.keys - 1));
  const int64_t begin = max(int64_t{0}, p.ranges[2 * query]), end = min(last + 1, p.ranges[2 * query + 1]);
  return {static_cast<int>(last), static_cast<int>(min(begin, last + 1)), static_cast<int>(max(end, int64_t{0}))};
}

// Where the shares of a row lie: [splits, KV, rows].
__device__ inline AttentionShare* share_of(float* room, int64_t split, int64_t kv, int64_t kv_heads, int64_t row, int64_t rows) {
  return reinterpret_cast<AttentionShare*>(room) + (split * kv_heads + kv) * rows + row;
}

}  // namespace qkr
