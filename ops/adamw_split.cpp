#include "ops/adamw_split.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "csrc/adamw/cpu.h"
#include "ops/adamw_params.h"
#include "ops/check.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

constexpr const char* kOp = "adamw_split_";
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

using Signature = void(const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&,
                       const OptionalTensor&, double, double, double, double, double, int64_t);

void check_options(const char* op, const AdamwOptions& o) {
  check_that(std::isfinite(o.lr), op, "lr", "be finite", o.lr);
  check_that(o.beta1 >= 0 && o.beta1 < 1, op, "beta1", "be in [0, 1)", o.beta1);
  check_that(o.beta2 >= 0 && o.beta2 < 1, op, "beta2", "be in [0, 1)", o.beta2);
  check_that(o.eps >= 0 && std::isfinite(o.eps), op, "eps", "be finite and at least 0", o.eps);
  check_that(std::isfinite(o.weight_decay), op, "weight_decay", "be finite", o.weight_decay);
  check_that(o.step >= 1, op, "step", "be at least 1", o.step);
}

void adamw_cpu_key(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                   const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                   double eps, double weight_decay, int64_t step) {
  const AdamwArguments a{
      weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}};
  check_adamw(a);
  update_on_cpu(a);
}

void adamw_meta(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                double eps, double weight_decay, int64_t step) {
  check_adamw({weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}});
}

// An optimizer step is outside of every graph, although the weight is a leaf that requires grad. Version counters move, so that
// a graph that still needs the old weight says so instead of using the new one.
void adamw_autograd(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                    const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                    double eps, double weight_decay, int64_t step) {
  check_no_grad(kOp, "grad", grad);
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    schema_handle<"qk_restore::adamw_split_", Signature>().call(weight, master_low, grad, exp_avg, exp_avg_sq,
                                                                clip_scale, lr, beta1, beta2, eps, weight_decay, step);
  }
  for (const Tensor& written : {weight, master_low.value_or(Tensor()), exp_avg, exp_avg_sq}) {
    if (written.defined() && !written.is_inference()) written.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace

void check_adamw(const AdamwArguments& a) {
  const auto same = [&](const char* name, const Tensor& t) {
    check_shape(a.op, name, t, a.weight.sym_sizes());
    check_device(a.op, name, t, "weight", a.weight);
  };
  check_dtype(a.op, "weight", a.weight, {at::kBFloat16, at::kFloat});
  check_contiguous(a.op, "weight", a.weight);
  const bool split = a.weight.scalar_type() == at::kBFloat16;
  TORCH_CHECK(split == a.master_low.has_value(), a.op,
              ": master_low must be given for bf16 weights and for no others, got ", a.master_low ? "one" : "none",
              " for ", a.weight.scalar_type());
  if (split) {
    same("master_low", *a.master_low);
    check_dtype(a.op, "master_low", *a.master_low, {at::kShort});
    check_contiguous(a.op, "master_low", *a.master_low);
  }
  same("grad", a.grad);
  check_dtype(a.op, "grad", a.grad, {at::kBFloat16, at::kFloat});
  for (const auto& [name, t] :
       {std::pair<const char*, const Tensor&>{"exp_avg", a.exp_avg}, {"exp_avg_sq", a.exp_avg_sq}}) {
    same(name, t);
    check_dtype(a.op, name, t, {at::kFloat});
    check_contiguous(a.op, name, t);
  }
  if (a.clip_scale) {
    check_dtype(a.op, "clip_scale", *a.clip_scale, {at::kFloat});
    check_device(a.op, "clip_scale", *a.clip_scale, "weight", a.weight);
    check_that(a.clip_scale->sym_numel() == 1, a.op, "clip_scale", "have one element", a.clip_scale->sym_numel());
  }
  check_options(a.op, a.options);
}

void update_on_cpu(const AdamwArguments& a) {
  const AdamwShared shared = adamw_shared(a.clip_scale, a.options);
  with_adamw_tensor(a, a.grad.contiguous(), [&]<class Master, class Grad>(const AdamwTensor<Master, Grad>& tensor) {
    const AdamwParams<Master, Grad> p{tensor, shared};
    constexpr int64_t kGrain = 1 << 15;
    at::parallel_for(0, p.count, kGrain, [&](int64_t begin, int64_t end) { adamw_cpu(p, begin, end); });
  });
}

void adamw_split_(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                  const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, const AdamwOptions& o) {
  schema_handle<"qk_restore::adamw_split_", Signature>().call(weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale,
                                                              o.lr, o.beta1, o.beta2, o.eps, o.weight_decay, o.step);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("adamw_split_", qkr::adamw_cpu_key); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("adamw_split_", qkr::adamw_meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("adamw_split_", qkr::adamw_autograd); }
