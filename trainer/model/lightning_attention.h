// HypeNet's Lightning attention (HALO, arXiv 2601.22156) for packed rows and for a sequence with a cache:
// ops/lightning_attention.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/segments.h"

namespace qkr {

// ALiBi slopes s_h of `heads` heads, double on the CPU [H]: 2^(-8(h+1)/H) where H is a power of two; else those of the
// largest power P below H, then slopes 0, 2, 4, ... of 2P (github.com/thunlp/hybrid-linear-attention).
at::Tensor lightning_slopes(int64_t heads);

// q [N, H, D], k, v [N, H_kv, D] → o [N, H, D] in their dtype; slopes [H] fp32 (fp64 for fp64). Differentiable in q, k
// and v.
at::Tensor lightning_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                            double scale, const Segments& segments);

// One sequence that continues: `state` [H, D, D] (of slopes' dtype; undefined: zero) becomes the state after the last
// token, in place if there is one token. Not differentiable.
at::Tensor lightning_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                            double scale, at::Tensor& state);

}  // namespace qkr
