#include "ops/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/check.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/rms_norm_halves.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "rms_norm";

std::tuple<Tensor, Tensor> call_fwd(const Tensor& x, const OptionalTensor& added, const OptionalTensor& gate,
                                    const Tensor& weight, double eps) {
  return schema_handle<"qk_restore::_rms_norm_fwd", decltype(rms_norm_fwd_meta)>().call(x, added, gate, weight, eps);
}

std::tuple<Tensor, Tensor, Tensor> call_bwd(const Tensor& grad_y, const OptionalTensor& grad_h, const Tensor& h,
                                            const OptionalTensor& gate, const Tensor& weight, double eps) {
  return schema_handle<"qk_restore::_rms_norm_bwd", decltype(rms_norm_bwd_meta)>().call(grad_y, grad_h, h, gate, weight,
                                                                                        eps);
}

// Returns {y}, or {y, h} with `added`.
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const OptionalTensor& added,
                               const OptionalTensor& gate, const Tensor& weight, double eps) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [y, h] = call_fwd(x, added, gate, weight, eps);
    ctx->save_for_backward({added ? h : x, gate.value_or(Tensor()), weight});
    ctx->saved_data["eps"] = eps;
    if (added) return {y, h};
    return {y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_first_derivative_only(kOp);
    const variable_list saved = ctx->get_saved_variables();
    const OptionalTensor gate = saved[1].defined() ? OptionalTensor(saved[1]) : std::nullopt;
    const bool has_sum = grads.size() > 1;
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_h, grad_gate, grad_weight] = call_bwd(grads[0], has_sum ? OptionalTensor(grads[1]) : std::nullopt,
                                                           saved[0], gate, saved[2], ctx->saved_data["eps"].toDouble());
    return {grad_h, has_sum ? grad_h : Tensor(), gate ? grad_gate : Tensor(), grad_weight, Tensor()};
  }
};

Tensor rms_norm_no_grad(const Tensor& x, const Tensor& weight, double eps) {
  return std::get<0>(call_fwd(x, {}, {}, weight, eps));
}
std::tuple<Tensor, Tensor> add_rms_norm_no_grad(const Tensor& x, const Tensor& added, const Tensor& weight,
                                                double eps) {
  return call_fwd(x, added, {}, weight, eps);
}
Tensor gated_rms_norm_no_grad(const Tensor& x, const Tensor& gate, const Tensor& weight, double eps) {
  return std::get<0>(call_fwd(x, {}, gate, weight, eps));
}

Tensor rms_norm_autograd(const Tensor& x, const Tensor& weight, double eps) {
  if (!nothing_records()) return RmsNorm::apply(x, OptionalTensor(), OptionalTensor(), weight, eps)[0];
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return rms_norm_no_grad(x, weight, eps);
}
std::tuple<Tensor, Tensor> add_rms_norm_autograd(const Tensor& x, const Tensor& added, const Tensor& weight,
                                                 double eps) {
  if (nothing_records()) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return add_rms_norm_no_grad(x, added, weight, eps);
  }
  const variable_list out = RmsNorm::apply(x, OptionalTensor(added), OptionalTensor(), weight, eps);
  return {out[0], out[1]};
}
Tensor gated_rms_norm_autograd(const Tensor& x, const Tensor& gate, const Tensor& weight, double eps) {
  if (!nothing_records()) return RmsNorm::apply(x, OptionalTensor(), OptionalTensor(gate), weight, eps)[0];
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return gated_rms_norm_no_grad(x, gate, weight, eps);
}

// h / rms(h) before any rounding, and 1 / rms(h).
std::pair<Tensor, Tensor> normed(const Tensor& h, double eps) {
  const Tensor wide = h.to(wide_type(h));
  const Tensor inv_rms = at::rsqrt(wide.square().mean(-1, true) + eps);  // [..., 1]
  return {wide * inv_rms, inv_rms};
}

Tensor nothing(const Tensor& like) { return at::empty({0}, like.options()); }

}  // namespace

void check_rms_norm(const Tensor& x, const OptionalTensor& added, const OptionalTensor& gate, const Tensor& weight,
                    double eps) {
  check_that(x.dim() >= 1 && x.sym_size(-1) > 0, kOp, "x", "have a last axis that is not empty", x.sym_sizes());
  check_dtype(kOp, "x", x, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  const auto same = [&](const char* name, const Tensor& t) {
    check_dtype(kOp, name, t, {x.scalar_type()});
    check_device(kOp, name, t, "x", x);
  };
  check_shape(kOp, "weight", weight, {x.sym_size(-1)});
  same("weight", weight);
  for (const auto& [name, t] : {std::pair<const char*, const OptionalTensor&>{"added", added}, {"gate", gate}}) {
    if (!t) continue;
    check_shape(kOp, name, *t, x.sym_sizes());
    same(name, *t);
  }
  TORCH_CHECK(!added || !gate, kOp, ": added must not be given together with gate, got both");
  check_that(eps >= 0 && std::isfinite(eps), kOp, "eps", "be finite and at least 0", eps);
}

std::tuple<Tensor, Tensor> rms_norm_fwd_meta(const Tensor& x, const OptionalTensor& added, const OptionalTensor& gate,
                                             const Tensor& weight, double eps) {
  check_rms_norm(x, added, gate, weight, eps);
  return {at::empty_symint(x.sym_sizes(), x.options()), added ? at::empty_symint(x.sym_sizes(), x.options()) : nothing(x)};
}

std::tuple<Tensor, Tensor> rms_norm_fwd_composite(const Tensor& x, const OptionalTensor& added,
                                                  const OptionalTensor& gate, const Tensor& weight, double eps) {
  check_rms_norm(x, added, gate, weight, eps);
  const Tensor h = added ? (x + *added).contiguous() : x;
  Tensor y = normed(h, eps).first.to(x.scalar_type()).mul_(weight);
  if (gate) y.mul_(gate->sigmoid());
  return {y.contiguous(), added ? h : nothing(x)};
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_bwd_meta(const Tensor& grad_y, const OptionalTensor& grad_h,
                                                     const Tensor& h, const OptionalTensor& gate, const Tensor& weight,
                                                     double eps) {
  check_rms_norm(h, grad_h, gate, weight, eps);
  check_shape(kOp, "grad_y", grad_y, h.sym_sizes());
  check_dtype(kOp, "grad_y", grad_y, {h.scalar_type()});
  check_device(kOp, "grad_y", grad_y, "h", h);
  return {at::empty_symint(h.sym_sizes(), h.options()), gate ? at::empty_symint(h.sym_sizes(), h.options()) : nothing(h),
          at::empty_symint(weight.sym_sizes(), weight.options())};
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_bwd_composite(const Tensor& grad_y, const OptionalTensor& grad_h,
                                                          const Tensor& h, const OptionalTensor& gate,
                                                          const Tensor& weight, double eps) {
  check_rms_norm(h, grad_h, gate, weight, eps);
  const at::ScalarType type = h.scalar_type(), wide = wide_type(h);
  const auto [m, inv_rms] = normed(h, eps);
  const Tensor n = m.to(type);  // what met the weight
  Tensor dt = grad_y.to(wide), grad_gate;
  if (gate) {
    const Tensor s = gate->sigmoid().to(wide);
    grad_gate = ((n * weight).to(wide) * dt).mul_(s).mul_(1 - s).to(type).contiguous();
    dt = dt * s;
  }
  const Tensor grad_weight = (dt * n).reshape({-1, h.size(-1)}).sum(0).to(type);
  Tensor g = dt * weight;
  const Tensor mean_gm = (g * m).mean(-1, true);
  g.addcmul_(m, mean_gm, -1).mul_(inv_rms);
  if (grad_h) g += *grad_h;
  return {g.to(type).contiguous(), gate ? grad_gate : nothing(h), grad_weight};
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  return schema_handle<"qk_restore::rms_norm", decltype(rms_norm)>().call(x, weight, eps);
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& added, const Tensor& weight, double eps) {
  return schema_handle<"qk_restore::add_rms_norm", decltype(add_rms_norm)>().call(x, added, weight, eps);
}

Tensor gated_rms_norm(const Tensor& x, const Tensor& gate, const Tensor& weight, double eps) {
  return schema_handle<"qk_restore::gated_rms_norm", decltype(gated_rms_norm)>().call(x, gate, weight, eps);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(Autograd, m) {
  m.impl("rms_norm", qkr::rms_norm_autograd);
  m.impl("add_rms_norm", qkr::add_rms_norm_autograd);
  m.impl("gated_rms_norm", qkr::gated_rms_norm_autograd);
}
QKR_LIBRARY_IMPL(CompositeExplicitAutograd, m) {
  m.impl("rms_norm", qkr::rms_norm_no_grad);
  m.impl("add_rms_norm", qkr::add_rms_norm_no_grad);
  m.impl("gated_rms_norm", qkr::gated_rms_norm_no_grad);
}
QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("_rms_norm_fwd", qkr::rms_norm_fwd_composite);
  m.impl("_rms_norm_bwd", qkr::rms_norm_bwd_composite);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("_rms_norm_fwd", qkr::rms_norm_fwd_meta);
  m.impl("_rms_norm_bwd", qkr::rms_norm_bwd_meta);
}
