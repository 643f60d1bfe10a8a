// The two halves that all norms share, and their composites: what a CPU runs, and a GPU for rows that the kernels do
// not hold.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace qkr {

// At most one of added and gate. Refuses alike on every device.
void check_rms_norm(const at::Tensor& x, const std::optional<at::Tensor>& added, const std::optional<at::Tensor>& gate,
                    const at::Tensor& weight, double eps);

std::tuple<at::Tensor, at::Tensor>  // y [..., D]; h [..., D], or [0] without `added`
rms_norm_fwd_composite(const at::Tensor& x, const std::optional<at::Tensor>& added,
                       const std::optional<at::Tensor>& gate, const at::Tensor& weight, double eps);

// Outputs alone, dense, not written.
std::tuple<at::Tensor, at::Tensor> rms_norm_fwd_meta(const at::Tensor& x, const std::optional<at::Tensor>& added,
                                                     const std::optional<at::Tensor>& gate, const at::Tensor& weight,
                                                     double eps);

std::tuple<at::Tensor, at::Tensor,
           at::Tensor>  // grad_h [..., D]; grad_gate [..., D], or [0] without `gate`; grad_weight [D]
rms_norm_bwd_composite(
    const at::Tensor& grad_y,                 // [..., D]
    const std::optional<at::Tensor>& grad_h,  // [..., D], what reaches h by other ways; not with gate
    const at::Tensor& h, const std::optional<at::Tensor>& gate, const at::Tensor& weight, double eps);

std::tuple<at::Tensor, at::Tensor, at::Tensor> rms_norm_bwd_meta(const at::Tensor& grad_y,
                                                                 const std::optional<at::Tensor>& grad_h,
                                                                 const at::Tensor& h,
                                                                 const std::optional<at::Tensor>& gate,
                                                                 const at::Tensor& weight, double eps);

}  // namespace qkr
