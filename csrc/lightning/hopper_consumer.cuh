// What a consumer warpgroup of the Hopper kernel does for one pass (pass.h).
//
// Note [Transposed products]
// The state lives in registers as value x key, a 64 x D slice a warpgroup, and everything is computed transposed, with the
// values as rows: then what is in registers (the state, decayed values) is always the A operand and what the copy engine
// brought is always B, and neither the state nor the decayed values ever pass through shared memory:
//   out^T    = (state^T) q^T, scaled by the decay since the chunk's start, + v^T P^T
//   state^T  = e^{-gL} state^T + (v^T decayed to the chunk's end) k
// Only P = (q k^T) * decay does: each warpgroup computes it for itself, so that warpgroups never wait for each other.
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_fragments.cuh"
#include "csrc/lightning/hopper_memory.cuh"

namespace qkr::hopper {

// One warpgroup's side. Fragments: Note [Fragments] in wgmma.cuh; `row_` and `column_` are the r and c there.
template <int kDim, bool kHiLo>
class Consumer {
  using P = Plan<kDim, kHiLo>;

 public:
  __device__ Consumer(const Pass& pass, uint32_t base, int group)
      : pass_(pass),
        base_(base),
        group_(group),
        thread_(threadIdx.x % 128),
        row_(thread_ / 32 * 16 + thread_ % 32 / 4),
        column_(thread_ % 4 * 2),
        scores_(base + P::kScores + group * P::kScoresOfGroup),
        out_(base + P::kOut + group * kTileBytes),
        decays_(base + P::kDecays + group * P::kDecaysOfGroup),
        score_decays_(decays_ + 2 * kChunk * sizeof(float)) {}

  __device__ void run(const Cut* cuts) {
    if (kTurns && group_ == 1) end_turn();
    SegmentWalk walk(pass_, cuts);
    Segment s, after;
    bool joined = false;  // with the segment before: the first chunk's P is there already
    for (bool some = walk.next(s); some; s = after) {
      some = walk.next(after);
      const bool joins = some && after.head == s.head;
      if (!joined) enter_head(s);
      enter(s);
      for (int chunk = s.warm; chunk < s.first; ++chunk) pass_by(s, chunk);
      if (!joined) begin_scores(s);
      const int with_next = joins ? s.last : s.last - 1;
      for (int chunk = s.first; chunk < with_next; ++chunk) {
        emit<true>(s, chunk, chunk + 1 < s.last ? length_of(s, chunk + 1) : length_of(after, 0));
      }
      if (!joins) emit<false>(s, with_next, 0);
      if (s.last * kChunk >= s.length && pass_.final_state != nullptr) save_state(s);
      joined = joins;
    }
    if (kTurns && group_ == 0) await_turn();
  }

 private:
  // Two warpgroups on the same work stay in step, all products at once and then none. Where the products are the longer part
  // they take turns: while one's products run, the other converts and stores.
  static constexpr bool kTurns = P::kGroups == 2 && kHiLo;
  static constexpr uint32_t kMeetAll = 3, kTurnOf = 4;  // named barriers; 1 and 2 are the warpgroups' own

  __device__ void meet() const { named_barrier(1 + group_, 128); }
  __device__ void await_turn() const {
    if (kTurns) named_barrier(kTurnOf + group_, 256);
  }
  __device__ void end_turn() const {
    if (kTurns) named_barrier_arrive(kTurnOf + 1 - group_, 256);
  }

  __device__ const float* state_of(const float* states, const Segment& s) const {
    return states + (static_cast<int64_t>(s.sequence) * pass_.heads + s.head) * kDim * kDim;
  }

  __device__ void enter_head(const Segment& s) {
    slope_ = pass_.slopes[s.head];
    decays_length_ = 0;
    const int ahead = thread_ - kChunk, age = pass_.reverse ? -ahead : ahead;
    store_float(score_decays_ + thread_ * 4, age >= 0 ? pass_.intra * expf(-slope_ * age) : 0.f);  // set_decays meets
  }

  __device__ void enter(const Segment& s) {
    const bool given = s.warm == 0 && pass_.initial_state != nullptr;
    const float* from = given ? state_of(pass_.initial_state, s) : nullptr;
    const int key_stride = pass_.initial_transposed ? 1 : kDim, value_stride = pass_.initial_transposed ? kDim : 1;
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      const int key = i / 4 * 8 + column_ + i % 2, value = group_ * 64 + row_ + i / 2 % 2 * 8;
      state_[i] = given ? from[key * key_stride + value * value_stride] : 0.f;
    }
  }

  __device__ void save_state(const Segment& s) const {
    float* to = const_cast<float*>(state_of(pass_.final_state, s));
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      const int key = i / 4 * 8 + column_ + i % 2, value = group_ * 64 + row_ + i / 2 % 2 * 8;
      to[key * kDim + value] = state_[i];
    }
  }

  // For each row of a chunk of this length: what the entering state's part of its output, and its part of the leaving state,
  // are multiplied by. Kept in shared memory; the length changes only at a sequence's end.
  __device__ void set_decays(int length) {
    if (length == decays_length_) return;
    decays_length_ = length;
    state_decay_ = expf(-slope_ * length);
    meet();  // nobody reads the old ones any more
    const int row = thread_ % kChunk, time = pass_.reverse ? length - 1 - row : row;
    const bool of_state = thread_ >= kChunk;
    const int age = of_state ? length - pass_.lag - time : time + pass_.lag;
    const float decay = (of_state ? pass_.added : pass_.inter) * expf(-slope_ * age);
    store_float(decays_ + thread_ * 4, row < length ? decay : 0.f);
    meet();
  }

  // Rows beyond a sequence's end belong to somebody else and may hold anything.
  __device__ void clear_tail(uint32_t tiles, int length) const {
    constexpr int kPieces = 2 * (kDim / 64) * 8;  // of a row of k and v
    for (int i = length * kPieces + group_ * 128 + thread_; i < kChunk * kPieces; i += P::kGroups * 128) {
      const uint32_t row = i / kPieces, piece = i % kPieces;
      store_16_bytes(tiles + P::kTensor + piece / 8 * kTileBytes + row * 128 + piece % 8 * 16, {0, 0, 0, 0});
    }
    fence_shared_for_async();
    named_barrier(kMeetAll, P::kGroups * 128);
  }

  __device__ void load_values(uint32_t tiles) {
    const uint32_t tile = tiles + 2 * P::kTensor + group_ * kTileBytes, lane = thread_ % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t row = 16 * i + lane % 8 + lane / 16 * 8, column = thread_ / 32 * 16 + lane / 8 % 2 * 8;
      load_transposed(values_[i], tile + tile_offset(row, column));
    }
  }

  __device__ void decay_state() {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) state_[i] *= state_decay_;
  }

  // Starts state += (decayed values) k. In high and low parts in either mode: rounding them once more would cost slow heads,
  // whose outputs come from the state, a third of their accuracy.
  __device__ void update_state(uint32_t tiles) {
    const uint64_t keys = tile_by_columns(tiles + P::kTensor);
    uint32_t high[4][4], low[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // of the 16 tokens
        const float2 decay = load_pair(decays_ + (kChunk + 16 * i + 8 * half + column_) * 4);
#pragma unroll
        for (int j = 2 * half; j < 2 * half + 2; ++j) {
          const float x = low_of(values_[i][j]) * decay.x, y = high_of(values_[i][j]) * decay.y;
          high[i][j] = pack_bf16(x, y);
          low[i][j] = pack_rest(x, y, high[i][j]);
        }
      }
    }
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma<true>(state_, high[i], keys + 128 * i, true);
      wgmma<true>(state_, low[i], keys + 128 * i, true);
    }
    wgmma_commit();
  }

  __device__ static int length_of(const Segment& s, int chunk) { return min(kChunk, s.length - chunk * kChunk); }

  // Waits for a chunk's tiles, which are the ring's.
  __device__ uint32_t await_tiles(const Ring<P::kStages>& ring) const {
    mbarrier_wait(P::full(base_, ring.stage), ring.parity);
    return base_ + ring.stage * P::kStage;
  }

  // Waits for the state and gives the chunk's tiles back to the producer.
  __device__ void finish_chunk() {
    wgmma_wait<0>();
    wgmma_pin(state_);
    if (thread_ % 32 == 0) mbarrier_arrive(P::empty(base_, ring_.stage));
    ring_.next();
  }

  // A chunk of the warm-up.
  __device__ void pass_by(const Segment& s, int chunk) {
    const int length = length_of(s, chunk);
    set_decays(length);
    const uint32_t tiles = await_tiles(ring_);
    load_values(tiles);
    decay_state();
    update_state(tiles);
    finish_chunk();
  }

  using StateOperand = uint32_t[kDim / 16][4];

  __device__ void convert_state(StateOperand& high, StateOperand& low) const {
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = state_[8 * i + 2 * j], y = state_[8 * i + 2 * j + 1];
        high[i][j] = pack_bf16(x, y);
        if (kHiLo) low[i][j] = pack_rest(x, y, high[i][j]);
      }
    }
  }

  // Of a tile's 16 columns number i, on from tile_by_rows.
  __device__ static uint64_t column_step(int i) { return i / 4 * (kTileBytes / 16) + i % 4 * 2; }

  // Starts scores = q k^T.
  __device__ void start_scores(float (&scores)[32], uint32_t tiles) const {
    const uint64_t queries = tile_by_rows(tiles), keys = tile_by_rows(tiles + P::kTensor);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) wgmma(scores, queries + column_step(i), keys + column_step(i), i > 0);
    wgmma_commit();
  }

  // Starts out = state^T q^T.
  __device__ void start_out(float (&out)[32], const StateOperand& high, const StateOperand& low, uint32_t tiles) const {
    const uint64_t queries = tile_by_rows(tiles);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
      wgmma<false>(out, high[i], queries + column_step(i), i > 0);
      if (kHiLo) wgmma<false>(out, low[i], queries + column_step(i), true);
    }
    wgmma_commit();
  }

  // Starts out += v^T P^T.
  __device__ void add_scored(float (&out)[32]) const {
    const uint64_t scores = tile_by_rows(scores_);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma<false>(out, values_[i], scores + 2 * i, true);
      if (kHiLo) wgmma<false>(out, values_[i], scores + kTileBytes / 16 + 2 * i, true);
    }
    wgmma_commit();
  }

  // Of a head's first chunk; every later one's are computed while the chunk before it is finished.
  __device__ void begin_scores(const Segment& s) {
    const int length = length_of(s, s.first);
    set_decays(length);
    float scores[32];
    const uint32_t tiles = await_tiles(ring_);
    if (length < kChunk) clear_tail(tiles, length);
    start_scores(scores, tiles);
    wgmma_wait<0>();
    wgmma_pin(scores);
    store_scores(scores);
    fence_shared_for_async();
  }

  // One chunk, whose P is in shared memory already, and the P of the next one if there is one. The state's conversion and
  // everything between the products of a chunk are on the critical path; scores and output are stored while the state is updated.
  // The conversion must not meet running products: reading the state's registers then makes the compiler wait for them.
  template <bool kHasNext>
  __device__ void emit(const Segment& s, int chunk, int next_length) {
    const int length = length_of(s, chunk);
    const uint32_t tiles = base_ + ring_.stage * P::kStage;
    set_decays(length);
    auto next = ring_;
    next.next();
    if (kHasNext && next_length < kChunk) clear_tail(await_tiles(next), next_length);  // the warpgroups meet: not within a turn
    float out[32], scores[32];
    {
      StateOperand high, low;
      convert_state(high, low);
      await_turn();
      start_out(out, high, low, tiles);
    }
    meet();  // P is complete
    load_values(tiles);
    decay_state();
    wgmma_wait<0>();
    wgmma_pin(out);
    decay_out(out);
    add_scored(out);
    if (kHasNext) start_scores(scores, await_tiles(next));
    update_state(tiles);
    end_turn();
    wgmma_wait<1>();
    wgmma_pin(out);
    stage_out(out);
    meet();  // the output is complete, and nobody reads P any more
    if (kHasNext) {
      wgmma_pin(scores);
      store_scores(scores);
      fence_shared_for_async();
    }
    store_out(s, first_token(pass_, s, chunk, length), length);
    finish_chunk();
  }

  __device__ void decay_out(float (&out)[32]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float2 decay = load_pair(decays_ + (8 * i + column_) * 4);
      out[4 * i] *= decay.x, out[4 * i + 1] *= decay.y;
      out[4 * i + 2] *= decay.x, out[4 * i + 3] *= decay.y;
    }
  }

  __device__ void store_scores(const float (&scores)[32]) const {
    const uint32_t lane = thread_ % 32, ahead = score_decays_ + (kChunk + row_ - column_) * 4;
    float below[2] = {load_float(ahead + 32), load_float(ahead + 28)};  // of the row 8 further down
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int block = 2 * i + j;
        const float decay[2] = {load_float(ahead - block * 32), load_float(ahead - block * 32 - 4)};
        const float upper[2] = {scores[4 * block] * decay[0], scores[4 * block + 1] * decay[1]};
        const float lower[2] = {scores[4 * block + 2] * below[0], scores[4 * block + 3] * below[1]};
        high[2 * j] = pack_bf16(upper[0], upper[1]), high[2 * j + 1] = pack_bf16(lower[0], lower[1]);
        if (kHiLo) {
          low[2 * j] = pack_rest(upper[0], upper[1], high[2 * j]);
          low[2 * j + 1] = pack_rest(lower[0], lower[1], high[2 * j + 1]);
        }
        below[0] = decay[0], below[1] = decay[1];
      }
      const uint32_t row = thread_ / 32 * 16 + lane % 16, column = 16 * i + lane / 16 * 8;
      store_matrices(scores_ + tile_offset(row, column), high[0], high[1], high[2], high[3]);
      if (kHiLo) store_matrices(scores_ + kTileBytes + tile_offset(row, column), low[0], low[1], low[2], low[3]);
    }
  }

  __device__ void stage_out(const float (&out)[32]) const {
    const uint32_t lane = thread_ % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t packed[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) packed[j] = pack_bf16(out[8 * i + 2 * j], out[8 * i + 2 * j + 1]);
      const uint32_t row = 16 * i + lane / 16 * 8 + lane % 8, column = thread_ / 32 * 16 + lane / 8 % 2 * 8;
      store_transposed(out_ + tile_offset(row, column), packed[0], packed[1], packed[2], packed[3]);
    }
  }

  __device__ void store_out(const Segment& s, int token, int length) const {
    Bf16* rows = pass_.o.data + token * pass_.o.token_stride + s.head * pass_.o.head_stride + group_ * 64;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = 16 * i + thread_ / 8, column = thread_ % 8 * 8;
      const uint4 x = load_16_bytes(out_ + tile_offset(row, column));
      if (row < length) *reinterpret_cast<uint4*>(rows + row * pass_.o.token_stride + column) = x;
    }
  }

  const Pass& pass_;
  const uint32_t base_;
  const int group_, thread_, row_, column_;
  const uint32_t scores_, out_, decays_, score_decays_;
  Ring<P::kStages> ring_;
  float slope_ = 0.f, state_decay_ = 0.f;
  int decays_length_ = 0;
  float state_[kDim / 2];
  uint32_t values_[4][4];
};

}  // namespace qkr::hopper
