#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/adamw_params.h"
#include "ops/check.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

constexpr const char* kOp = "adamw_split_list_";
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

using Signature = void(at::TensorList, at::TensorList, at::TensorList, at::TensorList, at::TensorList,
                       const OptionalTensor&, double, double, double, double, double, int64_t);

void cpu_key(at::TensorList weights, at::TensorList master_lows, at::TensorList grads, at::TensorList exp_avgs,
             at::TensorList exp_avg_sqs, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
             double eps, double weight_decay, int64_t step) {
  for_each_adamw(
      {weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}},
      update_on_cpu);
}

void meta(at::TensorList weights, at::TensorList master_lows, at::TensorList grads, at::TensorList exp_avgs,
          at::TensorList exp_avg_sqs, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
          double eps, double weight_decay, int64_t step) {
  for_each_adamw(
      {weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}},
      [](const AdamwArguments&) {});
}

// As adamw_split_ does it.
void autograd_key(at::TensorList weights, at::TensorList master_lows, at::TensorList grads, at::TensorList exp_avgs,
                  at::TensorList exp_avg_sqs, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                  double eps, double weight_decay, int64_t step) {
  for (const Tensor& grad : grads) check_no_grad(kOp, "grads", grad);
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    schema_handle<"qk_restore::adamw_split_list_", Signature>().call(
        weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, lr, beta1, beta2, eps, weight_decay, step);
  }
  for (const at::TensorList& written : {weights, master_lows, exp_avgs, exp_avg_sqs}) {
    for (const Tensor& t : written) {
      if (!t.is_inference()) t.unsafeGetTensorImpl()->bump_version();
    }
  }
}

}  // namespace

void for_each_adamw(const AdamwLists& a, const std::function<void(const AdamwArguments&)>& f) {
  const auto as_long = [&](const char* name, at::TensorList list) {
    check_that(list.size() == a.weights.size(), kOp, name, "be as many as weights", list.size());
  };
  if (!a.master_lows.empty()) as_long("master_lows", a.master_lows);
  as_long("grads", a.grads);
  as_long("exp_avgs", a.exp_avgs);
  as_long("exp_avg_sqs", a.exp_avg_sqs);
  // all are checked before any is changed
  for (const bool checks : {true, false}) {
    for (size_t i = 0; i < a.weights.size(); ++i) {
      const OptionalTensor low = a.master_lows.empty() ? std::nullopt : OptionalTensor(a.master_lows[i]);
      const AdamwArguments one{a.weights[i],     low,          a.grads[i], a.exp_avgs[i],
                               a.exp_avg_sqs[i], a.clip_scale, a.options,  kOp};
      if (checks) {
        check_adamw(one);
        check_device(kOp, "weights", a.weights[i], "the first", a.weights[0]);
      } else {
        f(one);
      }
    }
  }
}

void adamw_split_list_(at::TensorList weights, at::TensorList master_lows, at::TensorList grads,
                       at::TensorList exp_avgs, at::TensorList exp_avg_sqs, const OptionalTensor& clip_scale,
                       const AdamwOptions& o) {
  if (weights.empty()) return;  // without a tensor the dispatcher knows no device
  schema_handle<"qk_restore::adamw_split_list_", Signature>().call(weights, master_lows, grads, exp_avgs, exp_avg_sqs,
                                                                   clip_scale, o.lr, o.beta1, o.beta2, o.eps,
                                                                   o.weight_decay, o.step);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("adamw_split_list_", qkr::cpu_key); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("adamw_split_list_", qkr::meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("adamw_split_list_", qkr::autograd_key); }
