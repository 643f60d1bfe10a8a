// What lies where in a block's shared memory, and the warp that keeps it filled.
#pragma once

#include <cstdint>

#include "csrc/core/mbarrier.cuh"
#include "csrc/core/tma.cuh"
#include "csrc/core/wgmma.cuh"
#include "csrc/lightning/hopper_schedule.cuh"

namespace qkr::hopper {

struct Maps {
  CUtensorMap q, k, v, o;  // boxes of 64 columns of kChunk tokens of one head
};

// Passes over the same rows in the same direction run side by side, block by block: what one has fetched, the other
// finds in L2. The one behind finds more there than the one ahead, so that they stay together.
template <int kPasses>
struct Jobs {
  Maps maps[kPasses];
  Pass pass[kPasses];
};

// Shared memory in bytes; tiles begin at multiples of 1024.
template <int kDim, bool kHiLo>
struct Plan {
  static constexpr int kGroups = kDim / 64;  // consumer warpgroups; each owns 64 value columns
  static constexpr int kThreads = 128 * (kGroups + 1);
  static constexpr int kBlocksPerSm = kDim == 64 ? 2 : 1;
  static constexpr int kStages = kDim == 64 || kHiLo ? 3 : 4;
  static constexpr uint32_t kTensor = kTileBytes * (kDim / 64);
  static constexpr uint32_t kStage = 3 * kTensor;  // q, k, v
  static constexpr uint32_t kScores = kStages * kStage;
  static constexpr uint32_t kScoresOfChunk = kTileBytes * (kHiLo ? 2 : 1);
  static constexpr uint32_t kOut = kScores + kGroups * kScoresOfChunk;
  static constexpr int kOutBuffers = kStages == 4 ? 1 : 2;  // a warpgroup
  static constexpr uint32_t kDecays = kOut + kGroups * kOutBuffers * kTileBytes;
  static constexpr uint32_t kDecaysOfGroup = 4 * kChunk * sizeof(float);
  static constexpr uint32_t kBarriers = kDecays + kGroups * kDecaysOfGroup;
  static constexpr uint32_t kCuts = kBarriers + (kStages + kGroups) * 2 * 8;
  static constexpr uint32_t kBytes = kCuts + 2 * sizeof(Cut);
  static_assert(kBlocksPerSm * (kBytes + 1024) <= 228 * 1024, "does not fit");  // the system takes 1 KB a block

  __device__ static uint32_t full(uint32_t base, int stage) { return base + kBarriers + stage * 8; }
  __device__ static uint32_t empty(uint32_t base, int stage) { return base + kBarriers + (kStages + stage) * 8; }
  __device__ static uint32_t scores_ready(uint32_t base, int i) { return base + kBarriers + (2 * kStages + i) * 8; }
  __device__ static uint32_t scores_free(uint32_t base, int i) {
    return base + kBarriers + (2 * kStages + kGroups + i) * 8;
  }
};

template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

__device__ inline int first_token(const Pass& pass, const Segment& s, int chunk, int length) {
  const int position = s.start + chunk * kChunk;
  return pass.reverse ? pass.tokens - position - length : position;
}

template <class P>
__device__ inline void produce(const Maps& maps, const Pass& pass, const Cut* cuts, uint32_t base) {
  Ring<P::kStages> ring;
  SegmentWalk walk(pass, cuts);
  for (Segment s; walk.next(s);) {
    for (int chunk = s.warm; chunk < s.last; ++chunk, ring.next()) {
      const int token = first_token(pass, s, chunk, min(kChunk, s.length - chunk * kChunk));
      const uint32_t full = P::full(base, ring.stage), tiles = base + ring.stage * P::kStage;
      mbarrier_wait(P::empty(base, ring.stage), ring.parity ^ 1);
      const bool emits = chunk >= s.first;
      mbarrier_arrive_expect(full, emits ? P::kStage : 2 * P::kTensor);
      const auto load = [&](int tensor, const CUtensorMap& map, int group) {
        for (int half = 0; half < P::kGroups; ++half) {
          tma_load(tiles + tensor * P::kTensor + half * kTileBytes, &map, full, half * 64, s.head / group, token);
        }
      };
      if (emits) load(0, maps.q, pass.q_group);
      load(1, maps.k, pass.k_group);
      load(2, maps.v, pass.v_group);
    }
  }
}

}  // namespace qkr::hopper
