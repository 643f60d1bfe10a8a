// The mover: one thread brings the tiles, a warp for each consumer takes its output away.
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_fragments.cuh"
#include "csrc/lightning/hopper_memory.cuh"

namespace qkr::hopper {

// One thread. It alone walks through the block's piece; the others do what `tasks` says of the tiles that come.
template <class P>
__device__ inline void bring_tiles(const Maps& maps, const Pass& pass, uint32_t base, Tasks<P::kStages>& tasks) {
  Ring<P::kStages> ring;
  SegmentWalk walk(pass, tasks.cuts);
  for (int number = 0;; ++number) {
    Segment& s = tasks.segments[number % Tasks<P::kStages>::kSegments];
    if (!walk.next(s)) {
      s.head = -1;
      mbarrier_wait(P::empty(base, ring.stage), ring.parity ^ 1);
      mbarrier_arrive(P::full(base, ring.stage));
      return;
    }
    const int q_head = s.head / pass.q_group, k_head = s.head / pass.k_group, v_head = s.head / pass.v_group;
    for (int chunk = s.warm; chunk < s.last; ++chunk, ring.next()) {
      const uint32_t full = P::full(base, ring.stage), tiles = base + ring.stage * P::kStage;
      const int length = min(kChunk, s.length - chunk * kChunk), position = s.start + chunk * kChunk;
      const int token = pass.reverse ? pass.tokens - position - length : position;
      const bool emits = chunk >= s.first;
      mbarrier_wait(P::empty(base, ring.stage), ring.parity ^ 1);
      tasks.token[ring.stage] = token, tasks.length[ring.stage] = length;
      mbarrier_arrive_expect(full, emits ? P::kStage : 2 * P::kTensor);
      if (emits) tma_load(tiles, &maps.q, full, 0, token, 0, q_head);
      tma_load(tiles + P::kTensor, &maps.k, full, 0, token, 0, k_head);
      tma_load(tiles + 2 * P::kTensor, &maps.v, full, 0, token, 0, v_head);
    }
  }
}

// One warp. What a consumer has staged: a whole chunk by the copy engine; the rows behind a sequence's last are
// somebody else's.
template <class P>
__device__ inline void store_out(const Maps& maps, const Pass& pass, uint32_t staged, int group, int head, int token,
                                 int length) {
  const int lane = threadIdx.x % 32;
  if (length == kChunk) {
    if (lane == 0) {
      tma_store(&maps.o, staged, 0, token, group, head);
      tma_wait_read();
    }
    return;
  }
  int row = lane / 8;
  Bf16* to = pass.o.data + (token + row) * pass.o.token_stride + head * pass.o.head_stride + group * 64 + lane % 8 * 8;
  uint32_t from = staged + tile_offset(row, lane % 8 * 8);
#pragma unroll 1
  for (; row < length; row += 4, to += 4 * pass.o.token_stride) {
    store_global_16_bytes(to, load_16_bytes(from));
    from = (from + 4 * 128) ^ 4 * 16;  // as tile_offset has it
  }
}

// One warp: takes away all that consumer `group` stages.
template <class P>
__device__ inline void take_out(const Maps& maps, const Pass& pass, uint32_t base, const Tasks<P::kStages>& tasks,
                                int group) {
  const int lane = threadIdx.x % 32;
  Ring<P::kStages> ring;
  for (int number = 0, n = 0;; ++number) {
    mbarrier_wait(P::full(base, ring.stage), ring.parity);
    const Segment s = tasks.segment(number);
    if (s.head < 0) return;
    const int emitting = s.last - s.first;
    for (int left = s.last - s.warm; left > 0; --left, ring.next()) {
      mbarrier_wait(P::full(base, ring.stage), ring.parity);
      const int token = read_by_leader(tasks.token[ring.stage]), length = read_by_leader(tasks.length[ring.stage]);
      if (lane == 0) mbarrier_arrive(P::empty(base, ring.stage));
      if (left > emitting) continue;
      mbarrier_wait(P::out_ready(base, group, n), P::out_parity(n));
      store_out<P>(maps, pass, P::out(base, group, n), group, s.head, token, length);
      __syncwarp();
      if (lane == 0) mbarrier_arrive(P::out_free(base, group, n));
      ++n;
    }
  }
}

}  // namespace qkr::hopper
