// Between the dispatcher and csrc/adamw: the shared checks, and tensors turned into typed pointers.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
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
  const char* op = "adamw_split_";
};

struct AdamwLists {
  at::TensorList weights, master_lows, grads, exp_avgs, exp_avg_sqs;
  const std::optional<at::Tensor>& clip_scale;
  AdamwOptions options;
};

// Checks every tensor of adamw_split_list_, then calls f for each.
void for_each_adamw(const AdamwLists& a, const std::function<void(const AdamwArguments&)>& f);

// Refuses alike on every device.
void check_adamw(const AdamwArguments& a);

// After check_adamw, in threads.
void update_on_cpu(const AdamwArguments& a);

inline AdamwShared adamw_shared(const std::optional<at::Tensor>& clip_scale, const AdamwOptions& o) {
  return {clip_scale ? clip_scale->const_data_ptr<float>() : nullptr,
          {static_cast<float>(o.lr), static_cast<float>(o.beta1), static_cast<float>(o.beta2), static_cast<float>(o.eps),
           static_cast<float>(o.weight_decay), static_cast<float>(o.step)}};
}

template <class Grad, class Master>
AdamwTensor<Master, Grad> adamw_tensor(const AdamwArguments& a, const at::Tensor& dense_grad, Master master) {
  return {master, static_cast<const Grad*>(dense_grad.const_data_ptr()), a.exp_avg.mutable_data_ptr<float>(),
          a.exp_avg_sq.mutable_data_ptr<float>(), a.weight.numel()};
}

// Calls f(AdamwTensor<...>) for the dtypes at hand, after check_adamw. `grad`: a.grad, contiguous, kept by the caller.
template <class F>
void with_adamw_tensor(const AdamwArguments& a, const at::Tensor& grad, F&& f) {
  const bool bf16_grad = grad.scalar_type() == at::kBFloat16;
  if (a.weight.scalar_type() == at::kBFloat16) {
    const SplitMaster master{static_cast<Bf16*>(a.weight.mutable_data_ptr()),
                             a.master_low->mutable_data_ptr<int16_t>()};
    bf16_grad ? f(adamw_tensor<Bf16>(a, grad, master)) : f(adamw_tensor<float>(a, grad, master));
  } else {
    const Fp32Master master{a.weight.mutable_data_ptr<float>()};
    bf16_grad ? f(adamw_tensor<Bf16>(a, grad, master)) : f(adamw_tensor<float>(a, grad, master));
  }
}

}  // namespace qkr
