// RMSNorm over the last axis, alone, behind a residual addition, or before a sigmoid gate: one pass over the rows each.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace qkr {

// All: x [..., D], weight [D] of x's dtype; bf16, fp32 (or fp16, fp64, which have no kernels and go through ATen).
// Arithmetic in fp32, intermediates rounded where the official models round them; formulas and gradients:
// csrc/rms_norm/params.h. Differentiable once in every tensor; deterministic; nothing waits for the device.

// round(x / rms(x)) * weight, rms(v) = sqrt(mean(v^2) + eps).
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// {rms_norm(h), h} with h = x + added.
std::tuple<at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& added,  // [..., D]
                                                const at::Tensor& weight, double eps);

// rms_norm(x) * sigmoid(gate).
at::Tensor gated_rms_norm(const at::Tensor& x, const at::Tensor& gate,  // [..., D]
                          const at::Tensor& weight, double eps);

}  // namespace qkr
