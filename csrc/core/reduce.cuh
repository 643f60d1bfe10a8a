// Sums over a block in a fixed order: the same bits on every run.
#pragma once

#include <cstdint>

namespace qkr {

constexpr int kWarp = 32;

// The sum of v over the kLanes neighbours of a thread (a power of two, at most a warp), in all of them.
template <int kLanes = kWarp>
__device__ inline float lanes_sum(float v) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) v += __shfl_xor_sync(0xffffffffu, v, offset);
  return v;
}

// Room for block_sum; two halves, so that a loop needs one barrier a turn: a half is written again only after the
// barrier of the turn in between, which every reader of it has passed.
template <int kValues>
struct BlockSumRoom {
  float half[2][kWarp * kValues];
};

// Sums of each v[i] over the block, in all threads; blockDim.x is a multiple of 32. `turn` counts the calls on this
// room.
template <int kValues>
__device__ inline void block_sum(float (&v)[kValues], BlockSumRoom<kValues>& room, int turn) {
#pragma unroll
  for (int i = 0; i < kValues; ++i) v[i] = lanes_sum(v[i]);
  const int warps = blockDim.x / kWarp;
  if (warps == 1) return;
  float* const half = room.half[turn & 1];
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) half[threadIdx.x / kWarp * kValues + i] = v[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kValues; ++i) v[i] = 0.f;
  for (int w = 0; w < warps; ++w) {
#pragma unroll
    for (int i = 0; i < kValues; ++i) v[i] += half[w * kValues + i];
  }
}

}  // namespace qkr
