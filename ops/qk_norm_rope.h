// What happens to queries and keys between projection and attention in one pass: QK-norm, RoPE, a factor per token.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace qkr {

// y = factor[n] * rope(rms_norm(x[n, h, :])), each step only where it is given; dense [N, H, D]. fp32 arithmetic,
// intermediates rounded where the official models round them; formulas and gradients: csrc/qk_norm_rope/params.h.
// Differentiable once in x and weight; deterministic; nothing waits for the device. CUDA kernels: bf16 and fp32, even
// D up to 256; else through ATen.
at::Tensor qk_norm_rope(const at::Tensor& x,  // [N, H, D]; any strides, best with neighbouring elements
                        const std::optional<at::Tensor>& weight,  // [D] of x's dtype
                        const std::optional<at::Tensor>& cos,     // [N, D/2] of x's dtype: pairs (j, j + D/2); D even
                        const std::optional<at::Tensor>& sin,     // [N, D/2], with cos
                        const std::optional<at::Tensor>& factor,  // [N] fp32 (fp64 where x is fp64)
                        double eps);                              // of the norm

// Queries and keys of a layer at once: {qk_norm_rope(q, q_weight, cos, sin, factor), qk_norm_rope(k, k_weight, cos, sin, {})},
// to the bit, in one launch; the factor is the queries' (a position scales its own logits once).
std::tuple<at::Tensor, at::Tensor> qk_norm_rope_pair(
    const at::Tensor& q,                        // [N, H, D]
    const at::Tensor& k,                        // [N, H_kv, D]
    const std::optional<at::Tensor>& q_weight,  // [D]
    const std::optional<at::Tensor>& k_weight,  // [D], with q_weight
    const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
    const std::optional<at::Tensor>& factor, double eps);

// The dispatcher's half, and the composites: what a CPU runs, and a GPU where there is no kernel.
at::Tensor qk_norm_rope_meta(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                             const std::optional<at::Tensor>& factor, double eps);
at::Tensor qk_norm_rope_composite(const at::Tensor& x, const std::optional<at::Tensor>& weight,
                                  const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                                  const std::optional<at::Tensor>& factor, double eps);

std::tuple<at::Tensor, at::Tensor>             // grad_x [N, H, D]; grad_weight [D], or [0] without a weight
qk_norm_rope_bwd_meta(const at::Tensor& grad,  // [N, H, D]
                      const at::Tensor& x, const std::optional<at::Tensor>& weight,
                      const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
                      const std::optional<at::Tensor>& factor, double eps);
std::tuple<at::Tensor, at::Tensor> qk_norm_rope_bwd_composite(const at::Tensor& grad, const at::Tensor& x,
                                                              const std::optional<at::Tensor>& weight,
                                                              const std::optional<at::Tensor>& cos,
                                                              const std::optional<at::Tensor>& sin,
                                                              const std::optional<at::Tensor>& factor, double eps);

// The same of the pair. Outputs alone, dense, not written: {grad_q, grad_k, grad_q_weight, grad_k_weight}.
std::tuple<at::Tensor, at::Tensor> qk_norm_rope_pair_meta(
    const at::Tensor& q, const at::Tensor& k, const std::optional<at::Tensor>& q_weight,
    const std::optional<at::Tensor>& k_weight, const std::optional<at::Tensor>& cos,
    const std::optional<at::Tensor>& sin, const std::optional<at::Tensor>& factor, double eps);
std::tuple<at::Tensor, at::Tensor> qk_norm_rope_pair_composite(
    const at::Tensor& q, const at::Tensor& k, const std::optional<at::Tensor>& q_weight,
    const std::optional<at::Tensor>& k_weight, const std::optional<at::Tensor>& cos,
    const std::optional<at::Tensor>& sin, const std::optional<at::Tensor>& factor, double eps);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> qk_norm_rope_pair_bwd_meta(
    const at::Tensor& grad_q, const at::Tensor& grad_k, const at::Tensor& q, const at::Tensor& k,
    const std::optional<at::Tensor>& q_weight, const std::optional<at::Tensor>& k_weight,
    const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
    const std::optional<at::Tensor>& factor, double eps);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> qk_norm_rope_pair_bwd_composite(
    const at::Tensor& grad_q, const at::Tensor& grad_k, const at::Tensor& q, const at::Tensor& k,
    const std::optional<at::Tensor>& q_weight, const std::optional<at::Tensor>& k_weight,
    const std::optional<at::Tensor>& cos, const std::optional<at::Tensor>& sin,
    const std::optional<at::Tensor>& factor, double eps);

}  // namespace qkr
