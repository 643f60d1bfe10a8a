// What lies where in a block's shared memory.
#pragma once

#include <cstdint>

#include "csrc/core/mbarrier.cuh"
#include "csrc/core/tma.cuh"
#include "csrc/core/wgmma.cuh"
#include "csrc/lightning/hopper_schedule.cuh"

namespace qkr::hopper {

// Named barriers. Those of warpgroups 0 to 2 among themselves are 1 to 3; of consumer i's turn kTurnOf + i.
constexpr uint32_t kTurnOf = 4, kMoverMeets = 6;

struct Maps {
  CUtensorMap q, k, v, o;  // boxes of kChunk tokens of one head: all its columns, of o 64
};

// Passes over the same rows in the same direction run side by side, block by block: what one has fetched, the other
// finds in L2. The one behind finds more there than the one ahead, so that they stay together.
template <int kPasses>
struct Jobs {
  struct {
    Maps maps;
    Pass pass;
  } job[kPasses];
};

template <int kStages>
struct Ring {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }
};

// To a whole warp, read by the thread that will say at a barrier that it has been: others' reads, which only their warp
// orders before that, would pass for races.
__device__ inline int read_by_leader(const int& shared) {
  return __shfl_sync(~0u, threadIdx.x % 32 == 0 ? shared : 0, 0);
}

// What is in the stages: written before a stage's barrier is armed.
template <int kStages>
struct Tasks {
  static constexpr int kSegments = 8;
  static_assert(kStages + 2 <= kSegments, "a segment is looked at until its last chunk is given back");
  Cut cuts[2];                          // for the mover alone
  Segment segments[kSegments];          // number i is at i % kSegments; head -1: there are no more
  int token[kStages], length[kStages];  // of a stage's chunk

  // To a whole warp.
  __device__ Segment segment(int number) const {
    const Segment& from = segments[number % kSegments];
    Segment s;
    s.head = read_by_leader(from.head), s.sequence = read_by_leader(from.sequence);
    s.start = read_by_leader(from.start), s.length = read_by_leader(from.length);
    s.warm = read_by_leader(from.warm), s.first = read_by_leader(from.first), s.last = read_by_leader(from.last);
    s.gives_state = read_by_leader(from.gives_state);
    return s;
  }
};

// Shared memory in bytes; tiles begin at multiples of 1024.
template <int kDim, bool kHiLo>
struct Plan {
  static constexpr int kGroups = kDim / 64;             // consumer warpgroups; each owns 64 value columns
  static constexpr int kThreads = 128 * (kGroups + 2);  // consumers, score maker, mover
  static constexpr int kBlocksPerSm = kDim == 64 ? 2 : 1;
  // A thread's registers: at the launch, and what the warpgroups make of them.
  static constexpr int kRegisters = 65536 / (kThreads * kBlocksPerSm) / 8 * 8;
  static constexpr int kConsumerRegisters = kDim == 64 ? 144 : 208, kMakerRegisters = 64, kMoverRegisters = 32;
  static_assert(kGroups * kConsumerRegisters + kMakerRegisters + kMoverRegisters <= (kGroups + 2) * kRegisters,
                "a warpgroup would wait for registers for ever");
  static constexpr int kStages = kDim == 64 || kHiLo ? 3 : 4;
  static constexpr uint32_t kTensor = kTileBytes * (kDim / 64);
  static constexpr uint32_t kStage = 3 * kTensor;  // q, k, v
  static constexpr uint32_t kScores = kStages * kStage;
  static constexpr uint32_t kScoresOfChunk = kTileBytes * (kHiLo ? 2 : 1);
  static constexpr uint32_t kOut = kScores + kGroups * kScoresOfChunk;
  static constexpr int kOutBuffers = kStages == 4 ? 1 : 2;  // a warpgroup
  static constexpr uint32_t kDecays = kOut + kGroups * kOutBuffers * kTileBytes;
  static constexpr uint32_t kDecaysOfGroup = 2 * kChunk * sizeof(float);
  static constexpr uint32_t kBarriers = kDecays + (kGroups + 1) * kDecaysOfGroup;
  static constexpr uint32_t kTasks = kBarriers + (kStages + kGroups + kGroups * kOutBuffers) * 2 * 8;
  static constexpr uint32_t kBytes = kTasks + sizeof(Tasks<kStages>);
  static_assert(kBlocksPerSm * (kBytes + 1024) <= 228 * 1024, "does not fit");  // the system takes 1 KB a block

  // A stage's tiles have come; nobody needs them any more.
  __device__ static uint32_t full(uint32_t base, int stage) { return base + kBarriers + stage * 8; }
  __device__ static uint32_t empty(uint32_t base, int stage) { return base + kBarriers + (kStages + stage) * 8; }
  // The same of a P.
  __device__ static uint32_t scores_ready(uint32_t base, int i) { return base + kBarriers + (2 * kStages + i) * 8; }
  __device__ static uint32_t scores_free(uint32_t base, int i) {
    return base + kBarriers + (2 * kStages + kGroups + i) * 8;
  }
  // The same of the output of a consumer's chunk number n.
  __device__ static uint32_t out_ready(uint32_t base, int group, int n) {
    return base + kBarriers + (2 * (kStages + kGroups) + group * kOutBuffers + n % kOutBuffers) * 8;
  }
  __device__ static uint32_t out_free(uint32_t base, int group, int n) {
    return out_ready(base, group, n) + kGroups * kOutBuffers * 8;
  }
  __device__ static uint32_t out_parity(int n) { return n / kOutBuffers & 1; }
  __device__ static uint32_t out(uint32_t base, int group, int n) {
    return base + kOut + (group * kOutBuffers + n % kOutBuffers) * kTileBytes;
  }
};

}  // namespace qkr::hopper
