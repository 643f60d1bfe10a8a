// Lightning attention: linear attention with one constant decay per head (simple GLA). In head h, with lambda =
// exp(-slopes[h]) and S = initial_state (absent: 0) before a sequence's first token,
//   S_t = lambda S_{t-1} + k_t^T v_t,   o_t = scale q_t S_t
// A token reads itself undecayed. Sequences lie end to end: tokens [cu_seqlens[s], cu_seqlens[s+1]) are sequence s.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace qkr {

struct LightningOptions {
  double scale = 1;
  bool accurate = true;     // bf16 on CUDA: the error is the output's rounding (1.7e-3 rms), else 2.4e-3
  bool with_state = false;  // else the returned state is [0, H, D, D]
};

// Differentiable in q, k, v and initial_state, once. Deterministic. On CUDA nothing waits for the device and nothing is
// read by the host, so it may be captured in a graph. bf16 and fp32 with D 64 or 128 are served by kernels on CUDA,
// everything else by batched products over chunks of 64 tokens. Tokens (and an initial state) too old to matter beside
// the newest of equal size may be left out of long sequences: those with exp(-slope age) < 2^-24; of bf16 outputs and
// their gradients on compute capability 9.0, 2^-15, and 2^-11 if not accurate. States are always good to 2^-24.
// Returns o [N, H, D] and the states after the sequences' last tokens [S, H, D, D] (key x value).
std::tuple<at::Tensor, at::Tensor>
lightning_attention(const at::Tensor& q,           // [N, H, D] bf16, fp32 or fp64, any strides
                    const at::Tensor& k,           // [N, H_kv, D]; head h reads h / (H / H_kv)
                    const at::Tensor& v,           // [N, H_kv, D]
                    const at::Tensor& slopes,      // [H] fp32 (fp64 for fp64), > 0
                    const at::Tensor& cu_seqlens,  // [S + 1] int32, where q is; begins with 0, ends with N
                    const std::optional<at::Tensor>& initial_state,  // [S, H, D, D] fp32 (fp64 for fp64)
                    const LightningOptions& options);

// One more token of each of S sequences; the state is replaced by the next. Returns o [S, H, D]. No derivative.
at::Tensor lightning_attention_step_(const at::Tensor& q,       // [S, H, D]
                                     const at::Tensor& k,       // [S, H_kv, D]
                                     const at::Tensor& v,       // [S, H_kv, D]
                                     const at::Tensor& slopes,  // [H]
                                     const at::Tensor& state,   // [S, H, D, D], contiguous
                                     double scale);

// Whether CUDA tensors of this kind are served by a kernel.
bool lightning_has_kernel(at::ScalarType dtype, int64_t head_dim);

}  // namespace qkr
