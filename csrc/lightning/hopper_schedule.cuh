// Who computes what: the work of all heads is laid on one line and cut into equal pieces, one a block.
//
// Note [Equal pieces]
// A block that starts within a sequence first runs over W tokens for the state alone (Note [Segments without exchange]
// in params.h), at less than half the cost. If a piece may cost B tokens, head h with N tokens takes N / (B - w_h)
// blocks, w_h being its warm-up's cost; B solves sum_h N / (B - w_h) = blocks. On the line measured in blocks, block b
// owns [b, b + 1). Everybody computes the same line from the slopes on the device, so that the host reads nothing.
// Where final states are wanted, a sequence's last piece has the longer warm-up. One sequence: its N counts as that
// much longer, at its end. Several: every warm-up counts as the longer one.
//
// Note [Time]
// Positions are in the order of time: running backwards, position p is token N - 1 - p and the sequences come last to
// first. Chunks are counted from a sequence's start in time; a chunk belongs to the piece that its first position lies
// in.
#pragma once

#include "csrc/core/wgmma.cuh"
#include "csrc/lightning/pass.h"

namespace qkr::hopper {

using Pass = LightningPass<Bf16>;

constexpr int kChunk = 64;  // tokens

// How far a warm-up goes back: to where a token has decayed to e^-all; from e^-split on its values are rounded to bf16
// once, nearer ones are in high and low parts. A token of it costs `cost` tokens with output; measured.
struct Reach {
  float all, split, cost;
};

// exact: for a state that is handed on.
__device__ inline Reach reach_of(const Pass& pass, bool exact) {
  const bool is_hilo = pass.mode == LightningMode::kHiLo;
  if (exact) return {16.635532f, 8.3177662f, is_hilo ? 0.43f : 0.54f};  // 2^-24, 2^-12
  return is_hilo ? Reach{10.397208f, 6.2383246f, 0.44f}                 // 2^-15, 2^-9
                 : Reach{7.6246190f, 1.3862944f, 0.50f};                // 2^-11, 2^-2
}

// The start of a block's piece: a head and a position. (heads, 0) is the end of all.
struct Cut {
  int head, position;
};

// Chunks [first, last) of one sequence and head, after a run over [warm, first) for the state alone.
struct Segment {
  int head, sequence;     // sequence as in cu_seqlens
  int start, length;      // of the sequence, in time
  int warm, first, last;  // chunks
  int gives_state;        // whether the sequence ends in it, and its state is wanted
};

__device__ inline float warmup_tokens(const Pass& pass, int head, const Reach& reach) {
  return fminf(__fdividef(reach.all, pass.slopes[head]), static_cast<float>(pass.tokens));
}

// In time, where the i-th sequence starts.
__device__ inline int sequence_start(const Pass& pass, int i) {
  return pass.reverse ? pass.tokens - pass.cu_seqlens[pass.sequences - i] : pass.cu_seqlens[i];
}

// Two sums at once: a reduction is nothing but latency.
__device__ inline float2 warp_sum(float2 x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    x.x += __shfl_xor_sync(~0u, x.x, step);
    x.y += __shfl_xor_sync(~0u, x.y, step);
  }
  return x;
}

// What a head's pieces cost besides its tokens, in tokens: each one's warm-up, and what the last one's is longer.
struct Extra {
  float warmup, tail;
};
constexpr int kMaxHeads = kTileBytes / sizeof(Extra);  // the schedule's room is an output tile

__device__ inline Extra extra_of(const Pass& pass, int head) {
  const float longest = static_cast<float>(pass.tokens) / pass.sequences;  // documents bound what a warm-up can cost
  const auto cost = [&](const Reach& reach) { return reach.cost * fminf(warmup_tokens(pass, head, reach), longest); };
  const float plain = cost(reach_of(pass, false));
  if (pass.final_state == nullptr) return {plain, 0.f};
  const float exact = cost(reach_of(pass, true));
  return pass.sequences == 1 ? Extra{plain, exact - plain} : Extra{exact, 0.f};
}

// One warp. cuts[0] and cuts[1] are the start of this block's piece and of the next block's; room: one a head.
__device__ inline void cut_work(const Pass& pass, int block, int block_count, Extra* room, Cut* cuts) {
  const int lane = threadIdx.x % 32;
  const float tokens = pass.tokens, blocks = block_count;
  float sum = 0.f, most = 0.f;
  for (int head = lane; head < pass.heads; head += 32) {
    const Extra extra = room[head] = extra_of(pass, head);
    sum += extra.warmup;
    most = fmaxf(most, extra.warmup);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    sum += __shfl_xor_sync(~0u, sum, step);
    most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  }
  // The root of 1 / pieces(budget) - 1 / blocks, which is concave and, were all warm-ups equal, a straight line: from
  // the left of it Newton's steps only come closer, and two or three do.
  float budget = fmaxf(most + tokens / blocks, sum / pass.heads + tokens * pass.heads / blocks), line = 0.f;
  for (int step = 0; step < 8; ++step) {
    float2 value{0.f, 0.f};  // pieces, and how fast they become fewer
    for (int head = lane; head < pass.heads; head += 32) {
      const float inverse = __fdividef(1.f, budget - room[head].warmup), pieces = (tokens + room[head].tail) * inverse;
      value.x += pieces;
      value.y += pieces * inverse;
    }
    value = warp_sum(value);
    line = value.x;
    if (line < blocks * 1.003f) break;
    budget += __fdividef((line - blocks) * line, blocks * value.y);
  }
  if (lane < 2) cuts[lane] = {pass.heads, 0};
  __syncwarp();
  float before = 0.f;
  for (int base = 0; base < pass.heads; base += 32) {
    const int head = base + lane;
    const float length = head < pass.heads ? tokens + room[head].tail : 0.f;
    float end = head < pass.heads ? blocks / line * length / (budget - room[head].warmup) : 0.f;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const float other = __shfl_up_sync(~0u, end, step);
      if (lane >= step) end += other;
    }
    end += before;
    const float left = __shfl_up_sync(~0u, end, 1);
    const float start = lane == 0 ? before : left;
    for (int i = 0; i < 2; ++i) {
      const float want = block + i;
      if (head < pass.heads && start <= want && want < end && block + i < block_count) {
        cuts[i] = {head, min(pass.tokens, static_cast<int>((want - start) / (end - start) * length))};
      }
    }
    before = __shfl_sync(~0u, end, 31);
  }
  __syncwarp();
}

// A block's segments, in time within a head.
class SegmentWalk {
 public:
  // cuts are in shared memory, and stay there: registers are short.
  __device__ SegmentWalk(const Pass& pass, const Cut* cuts) : pass_(pass), cuts_(cuts), head_(cuts[0].head) {}

  // False after the last one.
  __device__ bool next(Segment& s) {
    for (; head_ <= cuts_[1].head && head_ < pass_.heads; ++head_, sequence_ = -1) {
      const int from = head_ == cuts_[0].head ? cuts_[0].position : 0;
      const int to = head_ == cuts_[1].head ? cuts_[1].position : pass_.tokens;
      if (from >= to) continue;
      if (sequence_ < 0) find_sequence(from);
      while (sequence_ < pass_.sequences) {
        s.start = sequence_start(pass_, sequence_);
        if (s.start >= to) break;
        s.sequence = pass_.reverse ? pass_.sequences - 1 - sequence_ : sequence_;
        s.length = sequence_start(pass_, ++sequence_) - s.start;
        s.first = max(0, (from - s.start + kChunk - 1) / kChunk);
        s.last = (min(to - s.start, s.length) + kChunk - 1) / kChunk;
        if (s.first >= s.last) continue;
        s.head = head_;
        s.gives_state = pass_.final_state != nullptr && s.last * kChunk >= s.length;
        const float warmup = warmup_tokens(pass_, head_, reach_of(pass_, s.gives_state));
        s.warm = max(0, s.first - (static_cast<int>(warmup) + kChunk - 1) / kChunk);
        return true;
      }
    }
    return false;
  }

 private:
  // The one that holds the position.
  __device__ void find_sequence(int position) {
    sequence_ = 0;
    for (int high = pass_.sequences; high - sequence_ > 1;) {
      const int middle = (sequence_ + high) / 2;
      (sequence_start(pass_, middle) <= position ? sequence_ : high) = middle;
    }
  }

  const Pass& pass_;
  const Cut* cuts_;
  int head_, sequence_ = -1;
};

}  // namespace qkr::hopper
