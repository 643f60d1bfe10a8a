#include "ops/qk_norm_rope.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/check.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "qk_norm_rope";

OptionalTensor if_defined(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

struct QkNormRope : torch::autograd::Function<QkNormRope> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos,
                        const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
    // without a norm nothing of x is needed
    ctx->save_for_backward({weight ? x : Tensor(), weight.value_or(Tensor()), cos.value_or(Tensor()),
                            sin.value_or(Tensor()), factor.value_or(Tensor())});
    ctx->saved_data["eps"] = eps;
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return qk_norm_rope(x, weight, cos, sin, factor, eps);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_first_derivative_only(kOp);
    const variable_list saved = ctx->get_saved_variables();
    const OptionalTensor weight = if_defined(saved[1]);
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_x, grad_weight] =
        schema_handle<"qk_restore::_qk_norm_rope_bwd", decltype(qk_norm_rope_bwd_meta)>().call(
            grads[0], weight ? saved[0] : grads[0], weight, if_defined(saved[2]), if_defined(saved[3]),
                 if_defined(saved[4]), ctx->saved_data["eps"].toDouble());
    return {grad_x, weight ? grad_weight : Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor autograd_key(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos, const OptionalTensor& sin,
                    const OptionalTensor& factor, double eps) {
  for (const auto& [name, t] :
       {std::pair<const char*, const OptionalTensor&>{"cos", cos}, {"sin", sin}, {"factor", factor}}) {
    if (t) check_no_grad(kOp, name, *t);
  }
  if (!nothing_records()) return QkNormRope::apply(x, weight, cos, sin, factor, eps);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return qk_norm_rope(x, weight, cos, sin, factor, eps);
}

void check(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos, const OptionalTensor& sin,
           const OptionalTensor& factor, double eps) {
  check_that(x.dim() == 3 && x.sym_size(2) > 0, kOp, "x", "be [N, H, D] with D > 0", x.sym_sizes());
  check_dtype(kOp, "x", x, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  const auto like_x = [&](const char* name, const Tensor& t, c10::SymIntArrayRef shape, at::ScalarType type) {
    check_shape(kOp, name, t, shape);
    check_dtype(kOp, name, t, {type});
    check_device(kOp, name, t, "x", x);
  };
  if (weight) like_x("weight", *weight, {x.sym_size(2)}, x.scalar_type());
  TORCH_CHECK(cos.has_value() == sin.has_value(), kOp, ": cos must be given together with sin, got one of them");
  if (cos) {
    check_that(x.sym_size(2) % 2 == 0, kOp, "x", "have an even last axis where it is rotated", x.sym_sizes());
    like_x("cos", *cos, {x.sym_size(0), x.sym_size(2) / 2}, x.scalar_type());
    like_x("sin", *sin, {x.sym_size(0), x.sym_size(2) / 2}, x.scalar_type());
  }
  if (factor) like_x("factor", *factor, {x.sym_size(0)}, wide_type(x));
  check_that(eps >= 0 && std::isfinite(eps), kOp, "eps", "be finite and at least 0", eps);
}

// {low cos - high sin, high cos + low sin} in place of {low, high}: rounded after each product and after the sum.
Tensor rotated(const Tensor& x, const Tensor& cos, const Tensor& sin) {
  const auto halves = x.chunk(2, -1);
  const Tensor c = cos.unsqueeze(1), s = sin.unsqueeze(1);  // [N, 1, D/2]
  return at::cat({(halves[0] * c).sub_(halves[1] * s), (halves[1] * c).add_(halves[0] * s)}, -1);
}

}  // namespace

Tensor qk_norm_rope_meta(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos,
                         const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  check(x, weight, cos, sin, factor, eps);
  return at::empty_symint(x.sym_sizes(), x.options());
}

Tensor qk_norm_rope_composite(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos,
                              const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  check(x, weight, cos, sin, factor, eps);
  Tensor y = x;
  if (weight) {
    const Tensor wide = x.to(wide_type(x));
    y = (wide * at::rsqrt(wide.square().mean(-1, true) + eps)).to(x.scalar_type()).mul_(*weight);
  }
  if (cos) y = rotated(y, *cos, *sin);
  if (factor) y = (y.to(factor->scalar_type()) * factor->view({-1, 1, 1})).to(x.scalar_type());
  return y.is_same(x) ? x.clone(at::MemoryFormat::Contiguous) : y.contiguous();
}

std::tuple<Tensor, Tensor> qk_norm_rope_bwd_meta(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                                 const OptionalTensor& cos, const OptionalTensor& sin,
                                                 const OptionalTensor& factor, double eps) {
  check(x, weight, cos, sin, factor, eps);
  check_shape(kOp, "grad", grad, x.sym_sizes());
  check_dtype(kOp, "grad", grad, {x.scalar_type()});
  check_device(kOp, "grad", grad, "x", x);
  return {at::empty_symint(x.sym_sizes(), x.options()), at::empty_symint({weight ? x.sym_size(2) : c10::SymInt(0)}, x.options())};
}

std::tuple<Tensor, Tensor> qk_norm_rope_bwd_composite(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                                      const OptionalTensor& cos, const OptionalTensor& sin,
                                                      const OptionalTensor& factor, double eps) {
  check(x, weight, cos, sin, factor, eps);
  const at::ScalarType type = x.scalar_type(), wide = wide_type(x);
  Tensor g = grad.to(wide);
  if (factor) g = g * factor->view({-1, 1, 1});
  if (cos) g = rotated(g, cos->to(wide), -sin->to(wide));
  if (!weight)
    return {g.is_same(grad) ? grad.clone(at::MemoryFormat::Contiguous) : g.to(type).contiguous(),
            at::empty({0}, x.options())};
  const Tensor h = x.to(wide);
  const Tensor inv_rms = at::rsqrt(h.square().mean(-1, true) + eps);  // [N, H, 1]
  const Tensor m = h * inv_rms;
  const Tensor grad_weight = (g * m.to(type)).reshape({-1, x.size(2)}).sum(0).to(type);
  g = g * *weight;
  const Tensor mean_gm = (g * m).mean(-1, true);
  g.addcmul_(m, mean_gm, -1).mul_(inv_rms);
  return {g.to(type).contiguous(), grad_weight};
}

Tensor qk_norm_rope(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos, const OptionalTensor& sin,
                    const OptionalTensor& factor, double eps) {
  return schema_handle<"qk_restore::qk_norm_rope", decltype(qk_norm_rope)>().call(x, weight, cos, sin, factor, eps);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(Autograd, m) { m.impl("qk_norm_rope", qkr::autograd_key); }
QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("qk_norm_rope", qkr::qk_norm_rope_composite);
  m.impl("_qk_norm_rope_bwd", qkr::qk_norm_rope_bwd_composite);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("qk_norm_rope", qkr::qk_norm_rope_meta);
  m.impl("_qk_norm_rope_bwd", qkr::qk_norm_rope_bwd_meta);
}
