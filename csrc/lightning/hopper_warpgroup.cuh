// Where a thread of a consumer warpgroup stands, and what its warpgroup keeps of a head's decay.
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_fragments.cuh"
#include "csrc/lightning/hopper_memory.cuh"

namespace qkr::hopper {

// Fragments: Note [Fragments] in wgmma.cuh; `row` and `column` are the r and c there.
template <class P>
class Warpgroup {
 public:
  __device__ Warpgroup(const Pass& pass, uint32_t base, int group)
      : pass(pass),
        base(base),
        group(group),
        thread(threadIdx.x % 128),
        row(thread / 32 * 16 + thread % 32 / 4),
        column(thread % 4 * 2),
        decays_(base + P::kDecays + group * P::kDecaysOfGroup) {}

  const Pass& pass;
  const uint32_t base;
  const int group, thread, row, column;

  __device__ void meet() const { named_barrier(1 + group, 128); }
  __device__ bool leads() const { return thread % 32 == 0; }  // its warp

  __device__ void enter_head() { length_ = 0; }

  // For each row of a chunk of this length: what the entering state's part of its output, and its part of the leaving
  // state, are multiplied by. The length changes only at a sequence's end.
  __device__ void set_decays(int head, int length) {
    if (length == length_) return;
    length_ = length;
    const float slope = slope_of(head);
    state_decay_ = expf(-slope * length);
    meet();  // nobody reads the old ones any more
    const int token = thread % kChunk, time = pass.reverse ? length - 1 - token : token;
    const bool of_state = thread >= kChunk;
    const int age = of_state ? length - pass.lag - time : time + pass.lag;
    const float decay = (of_state ? pass.added : pass.inter) * expf(-slope * age);
    store_float(decays_ + thread * 4, token < length ? decay : 0.f);
    meet();
  }

  __device__ float slope_of(int head) const { return pass.slopes[head]; }  // seldom; registers are short
  __device__ float state_decay() const { return state_decay_; }
  // Of rows (or columns) i and i + 1.
  __device__ float2 out_decays(int i) const { return load_pair(decays_ + i * 4); }
  __device__ float2 value_decays(int i) const { return load_pair(decays_ + (kChunk + i) * 4); }

 private:
  const uint32_t decays_;
  float state_decay_ = 0.f;
  int length_ = 0;
};

}  // namespace qkr::hopper
