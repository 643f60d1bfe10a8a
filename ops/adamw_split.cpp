#include "ops/adamw_split.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "csrc/adamw/cpu.h"
#include "ops/adamw_params.h"
#include "ops/check.h"
#include "ops/registration.h"

namespace qkr {
namespace {

constexpr const char* kOp = "adamw_split_";
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

using Signature = void(const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&,
                       const OptionalTensor&, double, double, double, double, double, int64_t);

auto& handle() {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("qk_restore::adamw_split_", "").typed<Signature>();
  return op;
}

void check_options(const AdamwOptions& o) {
  check_that(std::isfinite(o.lr), kOp, "lr", "be finite", o.lr);
  check_that(o.beta1 >= 0 && o.beta1 < 1, kOp, "beta1", "be in [0, 1)", o.beta1);
  check_that(o.beta2 >= 0 && o.beta2 < 1, kOp, "beta2", "be in [0, 1)", o.beta2);
  check_that(o.eps >= 0 && std::isfinite(o.eps), kOp, "eps", "be finite and at least 0", o.eps);
  check_that(std::isfinite(o.weight_decay), kOp, "weight_decay", "be finite", o.weight_decay);
  check_that(o.step >= 1, kOp, "step", "be at least 1", o.step);
}

void adamw_cpu_key(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                   const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                   double eps, double weight_decay, int64_t step) {
  const AdamwArguments a{
      weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}};
  check_adamw(a);
  with_adamw_params(a, [](const auto& p) {
    constexpr int64_t kGrain = 1 << 15;
    at::parallel_for(0, p.count, kGrain, [&](int64_t begin, int64_t end) { adamw_cpu(p, begin, end); });
  });
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
    handle().call(weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, lr, beta1, beta2, eps, weight_decay, step);
  }
  for (const Tensor& written : {weight, master_low.value_or(Tensor()), exp_avg, exp_avg_sq}) {
    if (written.defined() && !written.is_inference()) written.unsafeGetTensorImpl()->bump_version();
  }
}

}  // namespace

void check_adamw(const AdamwArguments& a) {
  const auto same = [&](const char* name, const Tensor& t) {
    check_shape(kOp, name, t, a.weight.sym_sizes());
    check_device(kOp, name, t, "weight", a.weight);
  };
  check_dtype(kOp, "weight", a.weight, {at::kBFloat16, at::kFloat});
  check_contiguous(kOp, "weight", a.weight);
  const bool split = a.weight.scalar_type() == at::kBFloat16;
  TORCH_CHECK(split == a.master_low.has_value(), kOp,
              ": master_low must be given for bf16 weights and for no others, got ", a.master_low ? "one" : "none",
              " for ", a.weight.scalar_type());
  if (split) {
    same("master_low", *a.master_low);
    check_dtype(kOp, "master_low", *a.master_low, {at::kShort});
    check_contiguous(kOp, "master_low", *a.master_low);
  }
  same("grad", a.grad);
  check_dtype(kOp, "grad", a.grad, {at::kBFloat16, at::kFloat});
  for (const auto& [name, t] :
       {std::pair<const char*, const Tensor&>{"exp_avg", a.exp_avg}, {"exp_avg_sq", a.exp_avg_sq}}) {
    same(name, t);
    check_dtype(kOp, name, t, {at::kFloat});
    check_contiguous(kOp, name, t);
  }
  if (a.clip_scale) {
    check_dtype(kOp, "clip_scale", *a.clip_scale, {at::kFloat});
    check_device(kOp, "clip_scale", *a.clip_scale, "weight", a.weight);
    check_that(a.clip_scale->sym_numel() == 1, kOp, "clip_scale", "have one element", a.clip_scale->sym_numel());
  }
  check_options(a.options);
}

void adamw_split_(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                  const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, const AdamwOptions& o) {
  handle().call(weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, o.lr, o.beta1, o.beta2, o.eps,
                o.weight_decay, o.step);
}

// In int64, where no addition can overflow.
std::pair<Tensor, Tensor> split_master(const Tensor& master) {
  check_dtype("split_master", "master", master, {at::kFloat});
  const Tensor dense = master.detach().contiguous();
  const Tensor bits = dense.view(at::kInt).to(at::kLong);
  const Tensor high =
      (bits + 0x8000).bitwise_right_shift(16);  // [-2^15, 2^15]: 2^15 would be a carry into the sign, a NaN
  const Tensor low = bits - high * 65536;
  const Tensor is_nan = dense.isnan();
  const Tensor quiet = at::where(bits < 0, -0x40, 0x7fc0).to(at::kLong);  // 0xffc0 and 0x7fc0 as int16
  return {at::where(is_nan, quiet, high).to(at::kShort).view(at::kBFloat16), low.masked_fill(is_nan, 0).to(at::kShort)};
}

Tensor join_master(const Tensor& weight, const Tensor& master_low) {
  check_dtype("join_master", "weight", weight, {at::kBFloat16});
  check_dtype("join_master", "master_low", master_low, {at::kShort});
  check_shape("join_master", "master_low", master_low, weight.sym_sizes());
  check_device("join_master", "master_low", master_low, "weight", weight);
  const Tensor high = weight.detach().contiguous().view(at::kShort).to(at::kInt);
  // high * 2^16 + low stays in int32 but for one carry: the smallest negative numbers' pattern 0x8000 with a negative rest,
  // which no split makes
  return (high.bitwise_left_shift(16) + master_low.to(at::kInt)).view(at::kFloat);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("adamw_split_", qkr::adamw_cpu_key); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("adamw_split_", qkr::adamw_meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("adamw_split_", qkr::adamw_autograd); }
