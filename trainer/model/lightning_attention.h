// Lightning attention: linear attention with one constant decay per head (simple GLA; HypeNet, HALO arXiv 2601.22156).
//   S_t = exp(-s_h) S_{t-1} + k_t^T v_t,   o_t = scale q_t S_t,   S = 0 at each segment's start
// Computed in chunks by batched products, never token by token. A token reads itself undecayed.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/segments.h"

namespace qkr {

// ALiBi slopes s_h of `heads` heads, double on the CPU [H]: 2^(-8(h+1)/H) where H is a power of two; else those of the largest
// power P below H, then slopes 0, 2, 4, ... of 2P (github.com/thunlp/hybrid-linear-attention).
at::Tensor lightning_slopes(int64_t heads);

// q, k, v [N, H, D] fp32 (or fp64) → o [N, H, D]. slopes [H] of the same dtype and device. Differentiable in q, k and v; the
// gradients are the same operator with permuted arguments (Note [Gradients of a constant decay]).
at::Tensor lightning_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                               double scale, const Segments& segments);

// One sequence that continues: `state` [H, D, D] is read (undefined: zero) and replaced by the state after the last token.
// Not differentiable.
at::Tensor lightning_attention_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& slopes, double scale, at::Tensor& state);

}  // namespace qkr
