// What a consumer warpgroup of the Hopper kernel does for one pass (pass.h).
//
// Note [Transposed products]
// The state lives in registers as value x key, a 64 x D slice a warpgroup, and everything is computed transposed, with
// the values as rows: then what is in registers (the state, decayed values) is always the A operand and what the copy
// engine brought is always B, and neither the state nor the decayed values ever pass through shared memory:
//   out^T    = (state^T) q^T, scaled by the decay since the chunk's start, + v^T P^T
//   state^T  = e^{-gL} state^T + (v^T decayed to the chunk's end) k
// Only P = (q k^T) * decay does, which both warpgroups read (Note [P in turns] in hopper_scores.cuh).
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
  __device__ Consumer(const Maps& maps, const Pass& pass, uint32_t base, int group)
      : maps_(maps), pass_(pass), me_(pass, base, group) {}

  __device__ void run(const Cut* cuts) {
    if (kTurns && me_.group == 1) end_turn();
    SegmentWalk walk(pass_, cuts);
    bool joined = false;  // with the segment before: the first chunk's P is there already
    for (Segment s; walk.next(s);) {
      const int length_behind = length_behind_of(s, walk);
      if (!joined) me_.enter_head(s.head);
      enter(s);
      if (!joined) begin_scores(s);
      for (int chunk = s.first; chunk < s.last; ++chunk) {
        const int next_length = chunk + 1 < s.last ? length_of(s, chunk + 1) : length_behind;
        if (next_length > 0 && Scores::are_made_by(me_, emitted_ + 1)) {
          emit<true>(s, chunk, next_length);
        } else {
          emit<false>(s, chunk, next_length);
        }
      }
      if (s.gives_state) state_.save(me_, pass_.final_state + state_offset(s));
      joined = length_behind > 0;
    }
    if (kTurns && me_.group == 0) await_turn();
    if (me_.thread == 0) tma_wait_read();
  }

 private:
  // Two warpgroups on the same work stay in step, all products at once and then none. Where the products are the longer
  // part they take turns: while one's products run, the other converts and stores.
  static constexpr bool kTurns = P::kGroups == 2 && kHiLo;
  static constexpr uint32_t kMeetAll = 3, kTurnOf = 4;  // named barriers; 1 and 2 are the warpgroups' own

  __device__ void await_turn() const {
    if (kTurns) named_barrier(kTurnOf + me_.group, 256);
  }
  __device__ void end_turn() const {
    if (kTurns) named_barrier_arrive(kTurnOf + 1 - me_.group, 256);
  }

  // Of the chunk behind the segment's last; 0 if no other one of the same head follows.
  __device__ static int length_behind_of(const Segment& s, SegmentWalk walk) {
    Segment after;
    return walk.next(after) && after.head == s.head ? length_of(after, 0) : 0;
  }

  __device__ int64_t state_offset(const Segment& s) const {
    return (static_cast<int64_t>(s.sequence) * pass_.heads + s.head) * kDim * kDim;
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

  // Waits for the state and gives the chunk's tiles back to the producer.
  __device__ void finish_chunk() {
    wgmma_wait<0>();
    state_.pin();
    release(ring_);
    ring_.next();
  }

  // Rows beyond a sequence's end belong to somebody else and may hold anything. The warpgroups meet before as well:
  // that the other one has read what lay here before follows from the ring's barriers, through the copy engine, which a
  // race detector does not see.
  __device__ void clear_tail(uint32_t tiles, int length) const {
    named_barrier(kMeetAll, P::kGroups * 128);
    constexpr int kPieces = 2 * (kDim / 64) * 8;  // of a row of k and v
    for (int i = length * kPieces + me_.group * 128 + me_.thread; i < kChunk * kPieces; i += P::kGroups * 128) {
      const uint32_t row = i / kPieces, piece = i % kPieces;
      store_16_bytes(tiles + P::kTensor + piece / 8 * kTileBytes + row * 128 + piece % 8 * 16, {0, 0, 0, 0});
    }
    fence_shared_for_async();
    named_barrier(kMeetAll, P::kGroups * 128);
  }

  // Of a head's first chunk; every later one's are computed while the chunk before it is finished.
  __device__ void begin_scores(const Segment& s) {
    const int length = length_of(s, s.first);
    me_.set_decays(s.head, length);
    const uint32_t tiles = await_tiles(ring_);
    if (length < kChunk) clear_tail(tiles, length);
    if (!Scores::are_made_by(me_, emitted_)) return;
    float sum[32];
    Scores::start(sum, tiles);
    wgmma_wait<0>();
    wgmma_pin(sum);
    Scores::store(me_, sum, emitted_);
    fence_shared_for_async();
    Scores::publish(me_, emitted_);
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

  // One chunk, and the P of the next one if this warpgroup makes it (next_length 0: there is none). Half of the state's
  // update is behind the products of the output, so that the tensor cores have work while that is decayed; scores and
  // output are stored during the other half. (All of it there would need more registers than there are.) The conversion
  // must not meet running products: reading the state's registers then makes the compiler wait for them.
  template <bool kMakesNext>
  __device__ void emit(const Segment& s, int chunk, int next_length) {
    const int length = length_of(s, chunk), n = emitted_++;
    const uint32_t tiles = await_tiles(ring_);
    me_.set_decays(s.head, length);
    auto next = ring_;
    next.next();
    // the warpgroups meet: not within a turn
    if (0 < next_length && next_length < kChunk) clear_tail(await_tiles(next), next_length);
    typename State::Values values;
    float out[32], sum[32];
    {
      typename State::Operand high, low;
      state_.convert(high, low);
      state_.decay(me_);
      await_turn();
      start_out(out, high, low, tiles);
    }
    State::load_values(me_, values, tiles);
    state_.template add<0>(me_, values, tiles);
    Scores::await(me_, n);
    if (P::kOutBuffers == 1) free_staged();
    wgmma_wait<1>();
    wgmma_pin(out);
    decay_out(out);
    Scores::start_product(me_, out, values, n);
    if (kMakesNext) Scores::start(sum, await_tiles(next));
    state_.template add<1>(me_, values, tiles);
    end_turn();
    wgmma_wait<1>();
    Scores::release(me_, n);
    if (kMakesNext) {
      wgmma_pin(sum);
      Scores::store(me_, sum, n + 1);
    }
    wgmma_pin(out);
    const uint32_t staged = me_.base + P::kOut + (me_.group * P::kOutBuffers + n % P::kOutBuffers) * kTileBytes;
    stage_out(out, staged);
    fence_shared_for_async();
    if (kMakesNext) Scores::publish(me_, n + 1);
    if (P::kOutBuffers > 1) {
      free_staged();
    } else {
      me_.meet();
    }
    store_out(s, staged, first_token(pass_, s, chunk, length), length);
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

  // The warpgroup meets, and what was stored before has left its buffer.
  __device__ void free_staged() const {
    if (me_.thread == 0) tma_wait_read();
    me_.meet();
  }

  // A whole chunk by the copy engine; the rows behind a sequence's last are somebody else's.
  __device__ void store_out(const Segment& s, uint32_t staged, int token, int length) const {
    if (length == kChunk) {
      if (me_.thread == 0) tma_store(&maps_.o, staged, me_.group * 64, s.head, token);
      return;
    }
    Bf16* rows = pass_.o.data + token * pass_.o.token_stride + s.head * pass_.o.head_stride + me_.group * 64;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * i + me_.thread / 8, column = me_.thread % 8 * 8;
      if (row < length) {
        store_global_16_bytes(rows + row * pass_.o.token_stride + column,
                              load_16_bytes(staged + tile_offset(row, column)));
      }
    }
  }

  const Maps& maps_;
  const Pass& pass_;
  Warpgroup<P> me_;
  State state_;
  Ring<P::kStages> ring_;
  int emitted_ = 0;  // chunks with output
};

}  // namespace qkr::hopper
