// What a consumer warpgroup of the Hopper kernel does for one pass (pass.h).
//
// Note [Transposed products]
// The state lives in registers as value x key, a 64 x D slice a warpgroup, and everything is computed transposed, with
// the values as rows: then what is in registers (the state, decayed values) is always the A operand and what the copy
// engine brought is always B, and neither the state nor the decayed values ever pass through shared memory:
//   out^T    = (state^T) q^T, scaled by the decay since the chunk's start, + v^T P^T
//   state^T  = e^{-gL} state^T + (v^T decayed to the chunk's end) k
// Only P = (q k^T) * decay does, which both warpgroups read (Note [P ahead] in hopper_scores.cuh).
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_scores.cuh"
#include "csrc/lightning/hopper_state.cuh"

namespace qkr::hopper {

template <int kDim, bool kHiLo>
class Consumer {
  using P = Plan<kDim, kHiLo>;
  using State = hopper::State<kDim, kHiLo>;
  using Scores = hopper::Scores<kDim, kHiLo>;

 public:
  __device__ Consumer(const Pass& pass, uint32_t base, const Tasks<P::kStages>& tasks, int group)
      : pass_(pass), tasks_(tasks), me_(pass, base, group) {}

  __device__ void run() {
    if (kTurns && me_.group == 1) end_turn();
    for (int number = 0, head = -1;; ++number) {
      await_tiles(ring_);
      const Segment s = tasks_.segment(number);
      if (s.head < 0) break;
      if (s.head != head) me_.enter_head();
      head = s.head;
      enter(s);
      for (int left = s.last - s.first; left > 0; --left) emit(head);
      save(tasks_.segment(number));  // read again: registers are short
    }
    if (kTurns && me_.group == 0) await_turn();
  }

 private:
  // Two warpgroups on the same work stay in step, all products at once and then none. Where the products are the longer
  // part they take turns: while one's products run, the other converts and stores.
  static constexpr bool kTurns = P::kGroups == 2 && kHiLo;
  // So many times 16 tokens of a chunk go into the state behind the products of the output; more would need more
  // registers than there are.
  static constexpr int kEarly = kHiLo ? 1 : 2;

  __device__ void await_turn() const {
    if (kTurns) named_barrier(kTurnOf + me_.group, 256);
  }
  __device__ void end_turn() const {
    if (kTurns) named_barrier_arrive(kTurnOf + 1 - me_.group, 256);
  }

  __device__ int64_t state_offset(const Segment& s) const {
    return (static_cast<int64_t>(s.sequence) * pass_.heads + s.head) * kDim * kDim;
  }

  __device__ void save(const Segment& s) const {
    if (s.gives_state) state_.save(me_, pass_.final_state + state_offset(s));
  }

  // The state at the segment's start: the given one, aged, and the tokens of the warm-up, each decayed to that start,
  // so that the sum needs no decay on its way.
  __device__ void enter(const Segment& s) {
    const bool given = s.warm == 0 && pass_.initial_state != nullptr;
    const float fade = me_.slope_of(s.head) * kChunk;
    state_.load(me_, given ? pass_.initial_state + state_offset(s) : nullptr, expf(-fade * (s.first - s.warm)));
    if (s.warm == s.first) return;
    me_.set_decays(s.head, kChunk);
    const float near = fminf(reach_of(pass_, s.gives_state).split / fade, static_cast<float>(s.first));
    const int middle = max(s.warm, s.first - 1 - static_cast<int>(near));
    gather<false>(fade, s.first, s.warm, middle);
    gather<true>(fade, s.first, middle, s.first);
  }

  // Chunks [from, to) of the warm-up before chunk `first`, by twos: the values of one are decayed while those of the
  // other are multiplied.
  template <bool kSplit>
  __device__ void gather(float fade, int first, int from, int to) {
    if (from >= to) return;
    const auto start = [&](const Ring<P::kStages>& ring, int chunk) {
      state_.template gather<kSplit>(me_, await_tiles(ring), expf(-fade * (first - 1 - chunk)));
    };
    if ((to - from) % 2 != 0) {
      start(ring_, from++);
      finish_chunk();
    }
    for (; from < to; from += 2) {
      start(ring_, from);
      auto next = ring_;
      next.next();
      start(next, from + 1);
      wgmma_wait<1>();
      release(ring_);
      ring_.next();
      finish_chunk();
    }
  }

  // Waits for a chunk's tiles, which are the ring's.
  __device__ uint32_t await_tiles(const Ring<P::kStages>& ring) const {
    mbarrier_wait(P::full(me_.base, ring.stage), ring.parity);
    // the same in all lanes, which the compiler may know: a product's descriptors then cost no vector instructions
    return __shfl_sync(~0u, me_.base + ring.stage * P::kStage, 0);
  }

  __device__ void release(const Ring<P::kStages>& ring) const {
    if (me_.leads()) mbarrier_arrive(P::empty(me_.base, ring.stage));
  }

  // Waits for the state and gives the chunk's tiles back to the mover.
  __device__ void finish_chunk() {
    wgmma_wait<0>();
    state_.pin();
    release(ring_);
    ring_.next();
  }

  // Starts out = state^T q^T.
  __device__ void start_out(float (&out)[32], const typename State::Operand& high, const typename State::Operand& low,
                            uint32_t tiles) const {
    const uint64_t queries = tile_by_rows(tiles);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      const uint64_t step = i / 4 * (kTileBytes / 16) + i % 4 * 2;
      wgmma<false>(out, high[i], queries + step, i > 0);
      if (kHiLo) wgmma<false>(out, low[i], queries + step, true);
    }
    wgmma_commit();
  }

  // One chunk. A first part of the state's update is behind the products of the output, so that the tensor cores have
  // work while that is decayed; the output is staged during the other part. The conversion must not meet running
  // products: reading the state's registers then makes the compiler wait for them.
  __device__ void emit(int head) {
    const int n = emitted_++;
    const uint32_t tiles = await_tiles(ring_);
    const int length = read_by_leader(tasks_.length[ring_.stage]);
    if (length < kChunk) Scores::await(me_.base, n);  // by then the tail of k is cleared
    me_.set_decays(head, length);
    typename State::Values values;
    float out[32];
    {
      typename State::Operand high, low;
      state_.convert(high, low);
      state_.decay(me_);
      await_turn();
      start_out(out, high, low, tiles);
    }
    State::template load_values<0, kEarly>(me_, values, tiles, length);
    state_.template add<0, kEarly>(me_, values, tiles);
    Scores::await(me_.base, n);
    wgmma_wait<1>();
    wgmma_pin(out);
    State::template load_values<kEarly, 4>(me_, values, tiles, length);
    decay_out(out);
    Scores::start_product(me_.base, out, values, n);
    state_.template add<kEarly, 4>(me_, values, tiles);
    end_turn();
    wgmma_wait<1>();
    wgmma_pin(out);
    if (me_.leads()) Scores::release(me_.base, n);
    mbarrier_wait(P::out_free(me_.base, me_.group, n), P::out_parity(n) ^ 1);
    stage_out(out, P::out(me_.base, me_.group, n));
    fence_shared_for_async();
    __syncwarp();
    if (me_.leads()) mbarrier_arrive(P::out_ready(me_.base, me_.group, n));
    finish_chunk();
  }

  __device__ void decay_out(float (&out)[32]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 decay = me_.out_decays(8 * i + me_.column);
      out[4 * i] *= decay.x, out[4 * i + 1] *= decay.y;
      out[4 * i + 2] *= decay.x, out[4 * i + 3] *= decay.y;
    }
  }

  __device__ void stage_out(const float (&out)[32], uint32_t to) const {
    const uint32_t lane = me_.thread % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t packed[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) packed[j] = pack_bf16(out[8 * i + 2 * j], out[8 * i + 2 * j + 1]);
      const uint32_t row = 16 * i + lane / 16 * 8 + lane % 8, column = me_.thread / 32 * 16 + lane / 8 % 2 * 8;
      store_transposed(to + tile_offset(row, column), packed[0], packed[1], packed[2], packed[3]);
    }
  }

  const Pass& pass_;
  const Tasks<P::kStages>& tasks_;
  Warpgroup<P> me_;
  State state_;
  Ring<P::kStages> ring_;
  int emitted_ = 0;  // chunks with output
};

}  // namespace qkr::hopper
