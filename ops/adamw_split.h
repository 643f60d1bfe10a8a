// AdamW with fp32 arithmetic on a bf16 weight whose fp32 master is split into weight and remainder, or on a plain fp32 weight.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <utility>

namespace qkr {

struct AdamwOptions {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;  // each is rounded to fp32
  int64_t step = 1;                                                        // 1 for the first update
};

// One step, in place; nothing waits for the device. The rounding is that of PyTorch's fused CUDA AdamW on the fp32 master, to
// the bit, on CUDA; the CPU runs the same expression (its powf may differ by an ulp). Formula: csrc/adamw/params.h.
// Shapes are those of weight; everything on its device and, but for grad, contiguous.
void adamw_split_(const at::Tensor& weight,                     // any shape, bf16 or fp32; may require grad
                  const std::optional<at::Tensor>& master_low,  // int16; for bf16 weights, and only for them
                  const at::Tensor& grad,                       // bf16 or fp32, any strides
                  const at::Tensor& exp_avg,                    // fp32
                  const at::Tensor& exp_avg_sq,                 // fp32
                  const std::optional<at::Tensor>& clip_scale,  // fp32, one element, multiplied into grad
                  const AdamwOptions& options);

// The same, to the bit, for tensors of any shapes that share all but themselves: on a GPU in a launch for every 64.
void adamw_split_list_(at::TensorList weights,
                       at::TensorList master_lows,  // one for each weight, all of them bf16; or none, all fp32
                       at::TensorList grads, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
                       const std::optional<at::Tensor>& clip_scale, const AdamwOptions& options);

// The two halves of an fp32 tensor: {bf16 weight, int16 remainder}, dense, on its device. join_master is the inverse, bit for
// bit, for all finite values and infinities; a NaN stays a NaN. The weight is fp32 rounded half up (in magnitude), so a
// master whose remainder is zero is just the bf16 weight: Note [Split master] in csrc/adamw/params.h.
std::pair<at::Tensor, at::Tensor> split_master(const at::Tensor& master);        // fp32
at::Tensor join_master(const at::Tensor& weight, const at::Tensor& master_low);  // bf16, int16 -> fp32

}  // namespace qkr
