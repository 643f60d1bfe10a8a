#include "ops/gates.h"

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
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* op_name(GateKind kind) { return kind == GateKind::kSwiglu ? "swiglu" : "sigmoid_gate"; }

void check(const char* op, const Tensor& gate, const Tensor& x) {
  check_that(gate.dim() >= 1, op, "gate", "have at least one axis", gate.sym_sizes());
  check_dtype(op, "gate", gate, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  check_shape(op, "x", x, gate.sym_sizes());
  check_dtype(op, "x", x, {gate.scalar_type()});
  check_device(op, "x", x, "gate", gate);
}

Tensor call_fwd(GateKind kind, const Tensor& gate, const Tensor& x) {
  using Signature = decltype(swiglu);
  return kind == GateKind::kSwiglu ? schema_handle<"qk_restore::swiglu", Signature>().call(gate, x)
                                   : schema_handle<"qk_restore::sigmoid_gate", Signature>().call(gate, x);
}

std::tuple<Tensor, Tensor> call_bwd(GateKind kind, const Tensor& grad, const Tensor& gate, const Tensor& x) {
  using Signature = decltype(gate_bwd_meta<GateKind::kSwiglu>);
  return kind == GateKind::kSwiglu ? schema_handle<"qk_restore::_swiglu_bwd", Signature>().call(grad, gate, x)
                                   : schema_handle<"qk_restore::_sigmoid_gate_bwd", Signature>().call(grad, gate, x);
}

template <GateKind kKind>
struct Gate : torch::autograd::Function<Gate<kKind>> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate, const Tensor& x) {
    ctx->save_for_backward({gate, x});
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return call_fwd(kKind, gate, x);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_first_derivative_only(op_name(kKind));
    const variable_list saved = ctx->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_gate, grad_x] = call_bwd(kKind, grads[0], saved[0], saved[1]);
    return {grad_gate, grad_x};
  }
};

template <GateKind kKind>
Tensor autograd_key(const Tensor& gate, const Tensor& x) {
  if (!nothing_records()) return Gate<kKind>::apply(gate, x);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_fwd(kKind, gate, x);
}

template <GateKind kKind>
Tensor activation(const Tensor& gate) {
  return kKind == GateKind::kSwiglu ? at::silu(gate) : at::sigmoid(gate);
}

}  // namespace

template <GateKind kKind>
Tensor gate_meta(const Tensor& gate, const Tensor& x) {
  check(op_name(kKind), gate, x);
  return at::empty_symint(gate.sym_sizes(), gate.options());
}

template <GateKind kKind>
Tensor gate_composite(const Tensor& gate, const Tensor& x) {
  check(op_name(kKind), gate, x);
  return activation<kKind>(gate).mul_(x).contiguous();
}

template <GateKind kKind>
std::tuple<Tensor, Tensor> gate_bwd_meta(const Tensor& grad, const Tensor& gate, const Tensor& x) {
  check(op_name(kKind), gate, x);
  check_shape(op_name(kKind), "grad", grad, gate.sym_sizes());
  check_dtype(op_name(kKind), "grad", grad, {gate.scalar_type()});
  check_device(op_name(kKind), "grad", grad, "gate", gate);
  return {at::empty_symint(gate.sym_sizes(), gate.options()), at::empty_symint(gate.sym_sizes(), gate.options())};
}

template <GateKind kKind>
std::tuple<Tensor, Tensor> gate_bwd_composite(const Tensor& grad, const Tensor& gate, const Tensor& x) {
  check(op_name(kKind), gate, x);
  const Tensor active = activation<kKind>(gate), through = grad * x;
  const Tensor grad_gate =
      kKind == GateKind::kSwiglu ? at::silu_backward(through, gate) : at::sigmoid_backward(through, active);
  return {grad_gate.contiguous(), (grad * active).contiguous()};
}

Tensor swiglu(const Tensor& gate, const Tensor& x) { return call_fwd(GateKind::kSwiglu, gate, x); }
Tensor sigmoid_gate(const Tensor& gate, const Tensor& x) { return call_fwd(GateKind::kSigmoid, gate, x); }

template Tensor gate_meta<GateKind::kSwiglu>(const Tensor&, const Tensor&);
template Tensor gate_meta<GateKind::kSigmoid>(const Tensor&, const Tensor&);
template Tensor gate_composite<GateKind::kSwiglu>(const Tensor&, const Tensor&);
template Tensor gate_composite<GateKind::kSigmoid>(const Tensor&, const Tensor&);
template std::tuple<Tensor, Tensor> gate_bwd_meta<GateKind::kSwiglu>(const Tensor&, const Tensor&, const Tensor&);
template std::tuple<Tensor, Tensor> gate_bwd_meta<GateKind::kSigmoid>(const Tensor&, const Tensor&, const Tensor&);
template std::tuple<Tensor, Tensor> gate_bwd_composite<GateKind::kSwiglu>(const Tensor&, const Tensor&, const Tensor&);
template std::tuple<Tensor, Tensor> gate_bwd_composite<GateKind::kSigmoid>(const Tensor&, const Tensor&, const Tensor&);

}  // namespace qkr

using qkr::GateKind;

QKR_LIBRARY_IMPL(Autograd, m) {
  m.impl("swiglu", qkr::autograd_key<GateKind::kSwiglu>);
  m.impl("sigmoid_gate", qkr::autograd_key<GateKind::kSigmoid>);
}
QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("swiglu", qkr::gate_composite<GateKind::kSwiglu>);
  m.impl("sigmoid_gate", qkr::gate_composite<GateKind::kSigmoid>);
  m.impl("_swiglu_bwd", qkr::gate_bwd_composite<GateKind::kSwiglu>);
  m.impl("_sigmoid_gate_bwd", qkr::gate_bwd_composite<GateKind::kSigmoid>);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("swiglu", qkr::gate_meta<GateKind::kSwiglu>);
  m.impl("sigmoid_gate", qkr::gate_meta<GateKind::kSigmoid>);
  m.impl("_swiglu_bwd", qkr::gate_bwd_meta<GateKind::kSwiglu>);
  m.impl("_sigmoid_gate_bwd", qkr::gate_bwd_meta<GateKind::kSigmoid>);
}
