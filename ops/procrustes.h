// One layer's stacked W_Q over W_K as it was, turned by the rotation of its input that best explains what it became.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "ops/round_once.h"  // for those that bring a result of their own to the weights' dtype

namespace qkr {

// r = argmin over orthogonal R of ||w_pre R - w_post||_F^2 + mu ||R - I||_F^2 = polar(w_pre^T w_post, anchor) with
// mu = anchor * mean|diag(w_pre^T w_post)|, and restored = w_pre r. fp64, then one rounding; but the product of bf16 weights on
// CUDA is summed in fp32 by tensor cores where the anchor (>= 1e-3) bounds kappa: r moves by about 1e-7 kappa, far below the result's
// rounding. Deterministic; no derivative. Throws as polar does.
std::tuple<at::Tensor, at::Tensor,
           at::Tensor>                // restored [rows, d] of w_pre's dtype; r [d, d] float64; certificate [8] float64
procrustes(const at::Tensor& w_pre,   // [rows, d] bf16, fp16, fp32 or fp64
           const at::Tensor& w_post,  // [rows, d] of the same dtype
           double anchor);            // >= 0; large: restored = w_pre

}  // namespace qkr
