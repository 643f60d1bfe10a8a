// Who computes what: the work of all heads is laid on one line and cut into equal pieces, one a block.
//
// Note [Equal pieces]
// A block that starts within a sequence first runs over W tokens for the state alone (Note [Segments without exchange] in
// params.h), at less than half the cost. If a piece may cost B tokens, head h with N tokens takes N / (B - w_h) blocks, w_h
// being its warm-up's cost; B solves sum_h N / (B - w_h) = blocks. On the line measured in blocks, block b owns [b, b + 1).
// Everybody computes the same line from the slopes on the device, so that the host reads nothing.
//
// Note [Time]
// Positions are in the order of time: running backwards, position p is token N - 1 - p and the sequences come last to first.
// Chunks are counted from a sequence's start in time; a chunk belongs to the piece that its first position lies in.
#pragma once

#include "csrc/lightning/pass.h"

namespace qkr::hopper {

using Pass = LightningPass<Bf16>;

constexpr int kChunk = 64;  // tokens

constexpr float kBf16WarmupCost = 0.47f, kHiLoWarmupCost = 0.36f;

// The start of a block's piece: a head and a position. (heads, 0) is the end of all.
struct Cut {
  int head, position;
};

// Chunks [first, last) of one sequence and head, after a run over [warm, first) for the state alone.
struct Segment {
  int head, sequence;    // sequence as in cu_seqlens
  int start, length;     // of the sequence, in time
  int warm, first, last;  // chunks
};

// Beyond it, what is left of a token is below the precision of what multiplies it.
__device__ inline int warmup_tokens(const Pass& pass, int head) {
  const float reach = pass.mode == LightningMode::kHiLo ? 16.635532f : 11.090355f;  // ln(2^24), ln(2^16)
  return static_cast<int>(fminf(reach / pass.slopes[head], static_cast<float>(pass.tokens)));
}

// In time, where the i-th sequence starts.
__device__ inline int sequence_start(const Pass& pass, int i) {
  return pass.reverse ? pass.tokens - pass.cu_seqlens[pass.sequences - i] : pass.cu_seqlens[i];
}

__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// One warp. cuts[0] and cuts[1] are the start of this block's piece and of the next block's; room: a float a head.
__device__ inline void cut_work(const Pass& pass, int block, int block_count, float* room, Cut* cuts) {
  const int lane = threadIdx.x % 32;
  const float tokens = pass.tokens, blocks = block_count;
  // of a chunk that only moves the state, against one with output; measured
  const float cost = pass.mode == LightningMode::kHiLo ? kHiLoWarmupCost : kBf16WarmupCost;
  const float longest = tokens / pass.sequences;  // what a warm-up can cost is bounded by the documents
  float sum = 0.f, most = 0.f;
  for (int head = lane; head < pass.heads; head += 32) {
    const float warmup = cost * fminf(warmup_tokens(pass, head), longest);
    room[head] = warmup;
    sum += warmup;
    most = fmaxf(most, warmup);
  }
  sum = warp_sum(sum);
#pragma unroll
  for (int step = 16; step > 0; step /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  // left of the root on a falling convex curve: Newton's steps only come closer
  float budget = fmaxf(most + tokens / blocks, sum / pass.heads + tokens * pass.heads / blocks), line = 0.f;
  for (int step = 0; step < 8; ++step) {
    float value = 0.f, slope = 0.f;
    for (int head = lane; head < pass.heads; head += 32) {
      const float inverse = __fdividef(1.f, budget - room[head]);
      value += tokens * inverse;
      slope += tokens * inverse * inverse;
    }
    line = warp_sum(value);
    if (line < blocks * 1.003f) break;
    budget += (line - blocks) / warp_sum(slope);
  }
  if (lane < 2) cuts[lane] = {pass.heads, 0};
  __syncwarp();
  float before = 0.f;
  for (int base = 0; base < pass.heads; base += 32) {
    const int head = base + lane;
    float end = head < pass.heads ? blocks / line * tokens / (budget - room[head]) : 0.f;
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
        cuts[i] = {head, min(pass.tokens, static_cast<int>((want - start) / (end - start) * tokens))};
      }
    }
    before = __shfl_sync(~0u, end, 31);
  }
}

// A block's segments, in time within a head.
class SegmentWalk {
 public:
  __device__ SegmentWalk(const Pass& pass, const Cut* cuts)
      : pass_(pass), begin_(cuts[0]), end_(cuts[1]), head_(begin_.head) {}

  // False after the last one.
  __device__ bool next(Segment& s) {
    for (; head_ <= end_.head && head_ < pass_.heads; ++head_, sequence_ = -1) {
      const int from = head_ == begin_.head ? begin_.position : 0;
      const int to = head_ == end_.head ? end_.position : pass_.tokens;
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
        s.warm = max(0, s.first - (warmup_tokens(pass_, head_) + kChunk - 1) / kChunk);
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
  const Cut begin_, end_;
  int head_, sequence_ = -1;
};

}  // namespace qkr::hopper
