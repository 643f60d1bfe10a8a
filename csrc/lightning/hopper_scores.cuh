// P = (q k^T) * decay of a chunk, in shared memory, where every warpgroup reads it.
//
// Note [P in turns]
// Chunk number n counts those with output. P of it lies in one of as many buffers as there are warpgroups, each of
// which makes what its own buffer holds, a chunk ahead. A buffer has two barriers: ready, when it is written; free,
// when all have read it.
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_warpgroup.cuh"

namespace qkr::hopper {

// One half of P is zero: the buffers are cleared once and no warp writes its blocks there.
template <class P>
__device__ inline void clear_scores(uint32_t base) {
  for (uint32_t i = threadIdx.x * 16; i < P::kGroups * P::kScoresOfChunk; i += P::kThreads * 16) {
    store_16_bytes(base + P::kScores + i, {0, 0, 0, 0});
  }
  fence_shared_for_async();
}

template <int kDim, bool kHiLo>
class Scores {
  using P = Plan<kDim, kHiLo>;
  using Me = Warpgroup<P>;
  static constexpr int kMakers = P::kGroups;

 public:
  using Sum = float[32];

  __device__ static bool are_made_by(const Me& me, int n) { return n % kMakers == me.group; }

  // Starts q k^T.
  __device__ static void start(Sum& sum, uint32_t tiles) {
    const uint64_t queries = tile_by_rows(tiles), keys = tile_by_rows(tiles + P::kTensor);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      const uint64_t step = i / 4 * (kTileBytes / 16) + i % 4 * 2;
      wgmma(sum, queries + step, keys + step, i > 0);
    }
    wgmma_commit();
  }

  // P of chunk n from the finished sum, once everybody has read what lies there; fence_shared_for_async, then publish.
  __device__ static void store(const Me& me, const Sum& sum, int n) {
    mbarrier_wait(P::scores_free(me.base, n % kMakers), parity_of(n) ^ 1);
    const uint32_t to = buffer_of(me, n), lane = me.thread % 32, warp = me.thread / 32;
    const uint32_t ahead = me.score_decays() + (kChunk + me.row - me.column) * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (me.pass.reverse ? i < warp : i > warp) continue;  // all zero, as it is already
      uint32_t high[4], low[4];
      float below[2] = {load_float(ahead - i * 64 + 32), load_float(ahead - i * 64 + 28)};  // of the row 8 further down
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int block = 2 * i + j;
        const float decay[2] = {load_float(ahead - block * 32), load_float(ahead - block * 32 - 4)};
        const float upper[2] = {sum[4 * block] * decay[0], sum[4 * block + 1] * decay[1]};
        const float lower[2] = {sum[4 * block + 2] * below[0], sum[4 * block + 3] * below[1]};
        high[2 * j] = pack_bf16(upper[0], upper[1]), high[2 * j + 1] = pack_bf16(lower[0], lower[1]);
        if (kHiLo) {
          low[2 * j] = pack_rest(upper[0], upper[1], high[2 * j]);
          low[2 * j + 1] = pack_rest(lower[0], lower[1], high[2 * j + 1]);
        }
        below[0] = decay[0], below[1] = decay[1];
      }
      const uint32_t row = warp * 16 + lane % 16, column = 16 * i + lane / 16 * 8;
      store_matrices(to + tile_offset(row, column), high[0], high[1], high[2], high[3]);
      if (kHiLo) store_matrices(to + kTileBytes + tile_offset(row, column), low[0], low[1], low[2], low[3]);
    }
  }

  __device__ static void publish(const Me& me, int n) {
    __syncwarp();
    if (me.leads()) mbarrier_arrive(P::scores_ready(me.base, n % kMakers));
  }

  __device__ static void await(const Me& me, int n) {
    mbarrier_wait(P::scores_ready(me.base, n % kMakers), parity_of(n));
  }

  // Starts out += v^T P^T.
  __device__ static void start_product(const Me& me, float (&out)[32], const uint32_t (&values)[4][4], int n) {
    const uint64_t scores = tile_by_rows(buffer_of(me, n));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma<false>(out, values[i], scores + 2 * i, true);
      if (kHiLo) wgmma<false>(out, values[i], scores + kTileBytes / 16 + 2 * i, true);
    }
    wgmma_commit();
  }

  // When that is done.
  __device__ static void release(const Me& me, int n) {
    if (me.leads()) mbarrier_arrive(P::scores_free(me.base, n % kMakers));
  }

 private:
  __device__ static uint32_t buffer_of(const Me& me, int n) {
    return __shfl_sync(~0u, me.base + P::kScores + n % kMakers * P::kScoresOfChunk, 0);
  }
  __device__ static uint32_t parity_of(int n) { return n / kMakers & 1; }
};

}  // namespace qkr::hopper
