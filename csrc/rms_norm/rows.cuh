// How a block holds one row: thread t owns the packs t, t + blockDim.x, ... of it. Shared by both directions.
#pragma once

#include <cstdint>

#include "csrc/core/pack16.cuh"
#include "csrc/core/reduce.cuh"
#include "csrc/core/sigmoid.cuh"

namespace qkr {

enum class NormMode { kPlain, kResidual, kGated };

// kPacks packs of kPack elements a thread, at most kMaxThreads threads.
template <class T, int kPack_, int kPacks_, int kMaxThreads_>
struct RowShape {
  using Element = T;
  static constexpr int kPack = kPack_, kPacks = kPacks_, kMaxThreads = kMaxThreads_;
  static constexpr int64_t kMaxCols = static_cast<int64_t>(kPack) * kPacks * kMaxThreads;

  static int threads(int64_t cols) {
    constexpr int64_t kPerThread = kPack * kPacks;
    return static_cast<int>((cols + kPerThread * kWarp - 1) / (kPerThread * kWarp) * kWarp);
  }
};

// Calls f(RowShape) for a shape that holds a row; false if none does. Two packs a thread keep enough bytes in flight
// and leave registers for a second row.
template <class T, class F>
bool with_row_shape(int64_t cols, bool aligned, F&& f) {
  if (aligned && cols % kPack16<T> == 0) {
    if (cols <= RowShape<T, kPack16<T>, 2, 512>::kMaxCols) return f(RowShape<T, kPack16<T>, 2, 512>{}), true;
  }
  if (cols <= RowShape<T, 1, 8, 512>::kMaxCols) return f(RowShape<T, 1, 8, 512>{}), true;
  return false;
}

// f(i, pack) for each pack of the calling thread, i a compile-time constant after unrolling.
template <class Shape, class F>
__device__ inline void for_own_packs(int64_t cols, F&& f) {
  const int packs = static_cast<int>(cols / Shape::kPack);
#pragma unroll
  for (int i = 0; i < Shape::kPacks; ++i) {
    const int pack = threadIdx.x + i * blockDim.x;
    if (pack < packs) f(i, pack);
  }
}

}  // namespace qkr
