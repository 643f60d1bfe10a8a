// Two products with a gate, one pass each: the SwiGLU of an MLP, the sigmoid gate of an attention output.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

#include "csrc/gates/params.h"

namespace qkr {

// Both: gate and x [..., D] of one dtype, bf16 or fp32 (fp16 and fp64 have no kernels and go through ATen). fp32
// arithmetic, the activation rounded before it multiplies; formulas and gradients: csrc/gates/params.h.
// Differentiable once in both; deterministic; nothing waits for the device.
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& x);        // silu(gate) * x
at::Tensor sigmoid_gate(const at::Tensor& gate, const at::Tensor& x);  // sigmoid(gate) * x

// The composites: what a CPU runs, and a GPU where there is no kernel. "_meta": outputs alone, dense, not written.
template <GateKind kKind>
at::Tensor gate_meta(const at::Tensor& gate, const at::Tensor& x);
template <GateKind kKind>
at::Tensor gate_composite(const at::Tensor& gate, const at::Tensor& x);
template <GateKind kKind>
std::tuple<at::Tensor, at::Tensor> gate_bwd_meta(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& x);
template <GateKind kKind>
std::tuple<at::Tensor, at::Tensor>          // grad_gate, grad_x [..., D]
gate_bwd_composite(const at::Tensor& grad,  // [..., D]
                   const at::Tensor& gate, const at::Tensor& x);

}  // namespace qkr
