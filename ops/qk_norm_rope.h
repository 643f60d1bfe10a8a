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

}  // namespace qkr
