// Between the dispatcher and csrc/adamw: the shared checks, and tensors turned into typed pointers.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "csrc/adamw/params.h"
#include "ops/adamw_split.h"

namespace qkr {

struct AdamwArguments {
  const at::Tensor& weight;
  const std::optional<at::Tensor>& master_low;
  const at::Tensor& grad;
  const at::Tensor& exp_avg;
  const at::Tensor& exp_avg_sq;
  const std::optional<at::Tensor>& clip_scale;
  AdamwOptions options;
};

// Refuses alike on every device.
void check_adamw(const AdamwArguments& a);

template <class Grad, class Master>
AdamwParams<Master, Grad> adamw_params(const AdamwArguments& a, const at::Tensor& dense_grad, Master master) {
  AdamwParams<Master, Grad> p;
  p.master = master;
  p.grad = static_cast<const Grad*>(dense_grad.const_data_ptr());
  p.exp_avg = a.exp_avg.mutable_data_ptr<float>();
  p.exp_avg_sq = a.exp_avg_sq.mutable_data_ptr<float>();
  p.clip_scale = a.clip_scale ? a.clip_scale->const_data_ptr<float>() : nullptr;
  p.count = a.weight.numel();
  const AdamwOptions& o = a.options;
  p.hyper = {static_cast<float>(o.lr),  static_cast<float>(o.beta1),        static_cast<float>(o.beta2),
             static_cast<float>(o.eps), static_cast<float>(o.weight_decay), static_cast<float>(o.step)};
  return p;
}

// Calls f(AdamwParams<...>) for the dtypes at hand, after check_adamw.
template <class F>
void with_adamw_params(const AdamwArguments& a, F&& f) {
  const at::Tensor grad = a.grad.contiguous();
  const bool bf16_grad = grad.scalar_type() == at::kBFloat16;
  if (a.weight.scalar_type() == at::kBFloat16) {
    const SplitMaster master{static_cast<Bf16*>(a.weight.mutable_data_ptr()),
                             a.master_low->mutable_data_ptr<int16_t>()};
    bf16_grad ? f(adamw_params<Bf16>(a, grad, master)) : f(adamw_params<float>(a, grad, master));
  } else {
    const Fp32Master master{a.weight.mutable_data_ptr<float>()};
    bf16_grad ? f(adamw_params<Bf16>(a, grad, master)) : f(adamw_params<float>(a, grad, master));
  }
}

}  // namespace qkr
