// P = (q k^T) * decay of a chunk: made by one warpgroup, in shared memory, where every consumer reads it.
//
// Note [P ahead]
// Chunk number n counts those with output. P of it lies in buffer n % kBuffers, which has two barriers: ready, when it
// is written; free, when all have read it. So P is made up to kBuffers chunks ahead, by a warpgroup that does nothing
// else: done by the consumers in turns, it was an eighth of their time, and they are what decides.
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

// Which barrier and which buffer chunk number n has, and what a consumer does with it.
template <int kDim, bool kHiLo>
class Scores {
  using P = Plan<kDim, kHiLo>;
  static constexpr int kBuffers = P::kGroups;

 public:
  __device__ static void await(uint32_t base, int n) {
    mbarrier_wait(P::scores_ready(base, n % kBuffers), parity_of(n));
  }

  // Starts out += v^T P^T.
  __device__ static void start_product(uint32_t base, float (&out)[32], const uint32_t (&values)[4][4], int n) {
    const uint64_t scores = tile_by_rows(buffer_of(base, n));
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma<false>(out, values[i], scores + 2 * i, true);
      if (kHiLo) wgmma<false>(out, values[i], scores + kTileBytes / 16 + 2 * i, true);
    }
    wgmma_commit();
  }

  // When that is done; one thread a warp.
  __device__ static void release(uint32_t base, int n) { mbarrier_arrive(P::scores_free(base, n % kBuffers)); }

  // Where P of chunk n goes, once everybody has read what lies there.
  __device__ static uint32_t await_buffer(uint32_t base, int n) {
    mbarrier_wait(P::scores_free(base, n % kBuffers), parity_of(n) ^ 1);
    return buffer_of(base, n);
  }

  // One thread a warp.
  __device__ static void publish(uint32_t base, int n) { mbarrier_arrive(P::scores_ready(base, n % kBuffers)); }

 private:
  __device__ static uint32_t buffer_of(uint32_t base, int n) {
    return __shfl_sync(~0u, base + P::kScores + n % kBuffers * P::kScoresOfChunk, 0);
  }
  __device__ static uint32_t parity_of(int n) { return n / kBuffers & 1; }
};

// The warpgroup that makes P.
template <int kDim, bool kHiLo>
class ScoreMaker {
  using P = Plan<kDim, kHiLo>;
  using Scores = hopper::Scores<kDim, kHiLo>;

 public:
  __device__ ScoreMaker(const Pass& pass, uint32_t base, const Tasks<P::kStages>& tasks)
      : pass_(pass),
        tasks_(tasks),
        base_(base),
        thread_(threadIdx.x % 128),
        row_(thread_ / 32 * 16 + thread_ % 32 / 4),
        column_(thread_ % 4 * 2) {}

  __device__ void run() {
    Ring<P::kStages> ring;
    int head = -1, emitted = 0;
    for (int number = 0;; ++number) {
      mbarrier_wait(P::full(base_, ring.stage), ring.parity);
      const Segment s = tasks_.segment(number);
      if (s.head < 0) break;
      if (s.head != head) enter_head(head = s.head);
      const int warm = s.first - s.warm, all = s.last - s.warm;
      for (int chunk = 0; chunk < all; ++chunk, ring.next()) {
        // those of the warm-up as well: whoever skips a round of the ring takes one round's barrier for another's
        mbarrier_wait(P::full(base_, ring.stage), ring.parity);
        if (chunk >= warm) make(ring, emitted++);
        if (thread_ % 32 == 0) mbarrier_arrive(P::empty(base_, ring.stage));
      }
    }
  }

 private:
  __device__ void meet() const { named_barrier(1 + P::kGroups, 128); }
  // A float for each difference of row and column; difference 0 is number kChunk.
  __device__ uint32_t decays() const { return base_ + P::kDecays + P::kGroups * P::kDecaysOfGroup; }

  __device__ void enter_head(int head) const {
    const int ahead = thread_ - kChunk, age = pass_.reverse ? -ahead : ahead;
    meet();  // nobody reads the old ones any more
    store_float(decays() + thread_ * 4, age >= 0 ? pass_.intra * expf(-pass_.slopes[head] * age) : 0.f);
    meet();
  }

  __device__ void make(const Ring<P::kStages>& ring, int n) const {
    const int length = read_by_leader(tasks_.length[ring.stage]);
    const uint32_t tiles = __shfl_sync(~0u, base_ + ring.stage * P::kStage, 0);
    if (length < kChunk) clear_tail(tiles, length);
    float sum[32];
    start(sum, tiles);
    const uint32_t to = Scores::await_buffer(base_, n);
    wgmma_wait<0>();
    wgmma_pin(sum);
    store(sum, to);
    fence_shared_for_async();
    __syncwarp();
    if (thread_ % 32 == 0) Scores::publish(base_, n);
  }

  // Rows beyond a sequence's end belong to somebody else and may hold anything: those of k are cleared here, before the
  // consumers, who wait for the P of such a chunk, multiply by them. (Those of v are cleared in registers.)
  __device__ void clear_tail(uint32_t tiles, int length) const {
    constexpr int kPieces = kDim / 64 * 8;  // of a row
    for (int i = length * kPieces + thread_; i < kChunk * kPieces; i += 128) {
      const uint32_t row = i / kPieces, piece = i % kPieces;
      store_16_bytes(tiles + P::kTensor + piece / 8 * kTileBytes + row * 128 + piece % 8 * 16, {0, 0, 0, 0});
    }
    fence_shared_for_async();
    meet();
  }

  // Starts q k^T.
  __device__ static void start(float (&sum)[32], uint32_t tiles) {
    const uint64_t queries = tile_by_rows(tiles), keys = tile_by_rows(tiles + P::kTensor);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      const uint64_t step = i / 4 * (kTileBytes / 16) + i % 4 * 2;
      wgmma(sum, queries + step, keys + step, i > 0);
    }
    wgmma_commit();
  }

  // P from the finished sum.
  __device__ void store(const float (&sum)[32], uint32_t to) const {
    const uint32_t lane = thread_ % 32, warp = thread_ / 32;
    const uint32_t ahead = decays() + (kChunk + row_ - column_) * 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (pass_.reverse ? i < warp : i > warp) continue;  // all zero, as it is already
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

  const Pass& pass_;
  const Tasks<P::kStages>& tasks_;
  const uint32_t base_;
  const int thread_, row_, column_;
};

}  // namespace qkr::hopper
