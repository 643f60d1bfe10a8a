// Lightning attention: linear attention with one constant decay per head (simple GLA; HypeNet, HALO arXiv 2601.22156).
// In head h, with lambda = exp(-slopes[h]) and S = initial_state (or 0) before a sequence's first token:
//   S_t = lambda S_{t-1} + k_t^T v_t,   o_t = scale q_t S_t
// A token reads itself undecayed. The state is [D, D], key x value, fp32, and never leaves the chip within a sequence.
//
// Note [Gradients of a constant decay]
// With LA(q, k, v)_t = sum_{s <= t} lambda^(t-s) (q_t . k_s) v_s, and LA_rev the same with time running backwards,
//   dq = scale LA(do, v, k),  dk = scale LA_rev(v, do, q),  dv = scale LA_rev(k, q, do)
// plus the terms of the initial and the final state. Nothing but q, k, v and the initial state is kept for the
// backward.
//
// Note [Segments without exchange]
// lambda is known, so a long sequence is cut into segments that depend on nothing: each first runs over the W tokens
// before it, for the state alone. What that leaves out is lambda^W times the state of W tokens before, and so lambda^W
// of the state itself where its size does not change much. For a state that is handed on (a final state, an initial
// state's gradient) lambda^W is 2^-24, less than fp32 can hold, in either mode. Segments that only give bf16 outputs
// leave out more on compute capability 9.0: 2^-15 in accurate mode and 2^-11 in the other, beside 2^-9 for an output's
// rounding. Elsewhere it is always 2^-24.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

enum class LightningMode {
  kBf16,  // what a tensor core multiplies is rounded to bf16; sums and the state are fp32
  kHiLo,  // the operands that are not inputs (P, the state, decayed keys) as bf16 high + low: error at the output's
          // rounding
};

// A tensor [N, H, D] with contiguous rows of D; strides in elements.
template <class T>
struct HeadRows {
  T* data = nullptr;
  int64_t token_stride = 0, head_stride = 0;
};

// T: Bf16 or float.
template <class T>
struct LightningParams {
  HeadRows<const T> q;                   // [N, H, D]
  HeadRows<const T> k, v;                // [N, H_kv, D]; head h reads h / (H / H_kv)
  HeadRows<T> o;                         // [N, H, D]
  const float* slopes = nullptr;         // [H], > 0
  const int32_t* cu_seqlens = nullptr;   // [sequences + 1] on the device, cu_seqlens[0] = 0, cu_seqlens[sequences] = N
  const float* initial_state = nullptr;  // [sequences, H, D, D] or null for 0
  float* final_state = nullptr;          // [sequences, H, D, D] or null
  int64_t tokens = 0;                    // N
  int sequences = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.f;
  bool reverse = false;  // time runs backwards within each sequence: the state starts after its last token
  LightningMode mode = LightningMode::kHiLo;
};

// H_kv = H here: whoever calls adds up the heads of a group.
template <class T>
struct LightningGradParams {
  HeadRows<const T> q, k, v, d_o;        // [N, H, D]
  HeadRows<T> d_q, d_k, d_v;             // [N, H, D]
  const float* slopes = nullptr;         // [H]
  const int32_t* cu_seqlens = nullptr;   // [sequences + 1]
  const float* initial_state = nullptr;  // [sequences, H, D, D] or null
  const float* d_final_state = nullptr;  // [sequences, H, D, D] or null
  float* d_initial_state = nullptr;      // [sequences, H, D, D] or null
  int64_t tokens = 0;
  int sequences = 0, heads = 0, head_dim = 0;
  float scale = 1.f;
  LightningMode mode = LightningMode::kHiLo;
};

// One more token of each sequence: the recurrence itself.
template <class T>
struct LightningStepParams {
  HeadRows<const T> q;            // [sequences, H, D]
  HeadRows<const T> k, v;         // [sequences, H_kv, D]
  HeadRows<T> o;                  // [sequences, H, D]
  const float* slopes = nullptr;  // [H]
  float* state = nullptr;         // [sequences, H, D, D], read and written
  int sequences = 0, heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 1.f;
};

}  // namespace qkr
