// One sweep over the tokens, of which the forward is one and the backward three (Note [Gradients of a constant decay]).
#pragma once

#include "csrc/lightning/params.h"

namespace qkr {

// With i, j counting a chunk's L tokens along the direction of the sweep, g = slopes[h], H the state that enters the
// chunk:
//   o_i = sum_{j <= i} intra e^{-g(i-j)} (q_i . k_j) v_j + inter e^{-g(i+lag)} q_i H
//   H   = e^{-gL} H + sum_j added e^{-g(L-lag-j)} k_j^T v_j
// lag 1: H is the state after the last token. lag 0: as the next token will see it, decayed once more; a state's
// gradient is of this form, and to bring it into the other one would be to divide by e^-g.
template <class T>
struct LightningPass {
  HeadRows<const T> q, k, v;                  // [N, H / group, D]
  int q_group = 1, k_group = 1, v_group = 1;  // head h reads h / group
  HeadRows<T> o;                              // [N, H, D]
  const float* slopes = nullptr;              // [H]
  const int32_t* cu_seqlens = nullptr;        // [sequences + 1]
  const float* initial_state = nullptr;       // [sequences, H, D, D] or null for 0
  float* final_state = nullptr;               // [sequences, H, D, D] or null
  bool initial_transposed = false;            // initial_state is read as value x key
  int tokens = 0, sequences = 0, heads = 0, head_dim = 0;
  float intra = 1.f, inter = 1.f, added = 1.f;
  int lag = 1;
  bool reverse = false;
  LightningMode mode = LightningMode::kHiLo;
};

template <class T>
LightningPass<T> forward_pass(const LightningParams<T>& p) {
  LightningPass<T> pass;
  pass.q = p.q, pass.k = p.k, pass.v = p.v, pass.o = p.o;
  pass.k_group = pass.v_group = p.heads / p.kv_heads;
  pass.slopes = p.slopes, pass.cu_seqlens = p.cu_seqlens;
  pass.initial_state = p.initial_state, pass.final_state = p.final_state;
  pass.tokens = static_cast<int>(p.tokens), pass.sequences = p.sequences;
  pass.heads = p.heads, pass.head_dim = p.head_dim;
  pass.intra = pass.inter = p.scale;
  pass.reverse = p.reverse, pass.mode = p.mode;
  return pass;
}

enum class LightningGrad { kQ, kK, kV };  // kV gives the initial state's gradient as well

template <class T>
LightningPass<T> grad_pass(const LightningGradParams<T>& p, LightningGrad which) {
  LightningPass<T> pass;
  pass.slopes = p.slopes, pass.cu_seqlens = p.cu_seqlens;
  pass.tokens = static_cast<int>(p.tokens), pass.sequences = p.sequences;
  pass.heads = p.heads, pass.head_dim = p.head_dim;
  pass.intra = p.scale, pass.mode = p.mode;
  if (which == LightningGrad::kQ) {
    pass.q = p.d_o, pass.k = p.v, pass.v = p.k, pass.o = p.d_q;
    pass.initial_state = p.initial_state, pass.initial_transposed = true;
    pass.inter = p.scale;
    return pass;
  }
  const bool of_k = which == LightningGrad::kK;
  pass.q = of_k ? p.v : p.k, pass.k = of_k ? p.d_o : p.q, pass.v = of_k ? p.q : p.d_o, pass.o = of_k ? p.d_k : p.d_v;
  pass.initial_state = p.d_final_state, pass.initial_transposed = of_k;
  pass.final_state = of_k ? nullptr : p.d_initial_state;
  pass.added = p.scale;
  pass.lag = 0, pass.reverse = true;
  return pass;
}

}  // namespace qkr
