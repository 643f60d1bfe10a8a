#include "ops/lightning_attention.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/check.h"
#include "ops/lightning_attention_composite.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "lightning_attention";
constexpr const char* kStepOp = "lightning_attention_step_";

LightningResult call(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                     const OptionalTensor& initial_state, double scale, bool accurate, bool with_state) {
  return schema_handle<"qk_restore::lightning_attention", decltype(call)>().call(q, k, v, slopes, cu_seqlens, initial_state,
                                                                                 scale, accurate, with_state);
}

LightningGrads call_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                         const OptionalTensor& initial_state, double scale, bool accurate) {
  return schema_handle<"qk_restore::_lightning_attention_bwd", decltype(call_grad)>().call(
      grad_o, grad_state, q, k, v, slopes, cu_seqlens, initial_state, scale, accurate);
}

Tensor call_step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& state,
                 double scale) {
  return schema_handle<"qk_restore::lightning_attention_step_", decltype(call_step)>().call(q, k, v, slopes, state,
                                                                                           scale);
}

// As check_shape, where a size may be a symbol.
void check_sizes(const char* op, const char* name, const Tensor& t, c10::SymIntArrayRef want) {
  TORCH_CHECK(t.sym_sizes() == want, op, ": ", name, " must have shape ", want, ", got ", t.sym_sizes());
}

void check_heads(const char* op, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes) {
  check_that(q.dim() == 3, op, "q", "have shape [N, H, D]", q.sym_sizes());
  check_that(k.dim() == 3, op, "k", "have shape [N, H_kv, D]", k.sym_sizes());
  check_dtype(op, "q", q, {at::kBFloat16, at::kFloat, at::kDouble});
  const c10::SymInt heads = q.sym_size(1), kv_heads = k.sym_size(1);
  check_sizes(op, "k", k, {q.sym_size(0), kv_heads, q.sym_size(2)});
  check_sizes(op, "v", v, k.sym_sizes());
  check_that(kv_heads > 0 && heads % kv_heads == 0, op, "H", "be a multiple of H_kv", heads);
  check_sizes(op, "slopes", slopes, {heads});
  check_dtype(op, "k", k, {q.scalar_type()});
  check_dtype(op, "v", v, {q.scalar_type()});
  check_dtype(op, "slopes", slopes, {q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat});
  check_device(op, "k", k, "q", q);
  check_device(op, "v", v, "q", q);
  check_device(op, "slopes", slopes, "q", q);
}

void check_state(const char* op, const char* name, const Tensor& state, const c10::SymInt& sequences, const Tensor& q) {
  check_sizes(op, name, state, {sequences, q.sym_size(1), q.sym_size(2), q.sym_size(2)});
  check_dtype(op, name, state, {q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat});
  check_device(op, name, state, "q", q);
}

Tensor empty_state(const c10::SymInt& sequences, const Tensor& q) {
  const at::ScalarType type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::empty_symint({sequences, q.sym_size(1), q.sym_size(2), q.sym_size(2)}, q.options().dtype(type));
}

LightningResult cpu(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                    const OptionalTensor& initial_state, double scale, bool accurate, bool with_state) {
  return lightning_composite({q, k, v, slopes, cu_seqlens, initial_state, scale, accurate}, with_state);
}

LightningGrads cpu_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                        const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                        const OptionalTensor& initial_state, double scale, bool accurate) {
  return lightning_composite_grad(grad_o, grad_state, {q, k, v, slopes, cu_seqlens, initial_state, scale, accurate});
}

Tensor cpu_step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& state,
                double scale) {
  return lightning_composite_step({q, k, v, slopes, state, scale});
}

LightningResult meta(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                     const OptionalTensor& initial_state, double scale, bool accurate, bool with_state) {
  const LightningArguments a{q, k, v, slopes, cu_seqlens, initial_state, scale, accurate};
  check_lightning(a);
  return lightning_results(a, with_state);
}

LightningGrads meta_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                         const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                         const OptionalTensor& initial_state, double scale, bool accurate) {
  const LightningArguments a{q, k, v, slopes, cu_seqlens, initial_state, scale, accurate};
  check_lightning_grad(grad_o, grad_state, a);
  return lightning_grads(a);
}

Tensor meta_step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& state,
                 double scale) {
  check_lightning_step({q, k, v, slopes, state, scale});
  return at::empty_symint(q.sym_sizes(), q.options());
}

struct LightningFunction : torch::autograd::Function<LightningFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                               const Tensor& slopes, const Tensor& cu_seqlens, const OptionalTensor& initial_state,
                               double scale, bool accurate, bool with_state) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    ctx->save_for_backward({q, k, v, slopes, cu_seqlens, initial_state.value_or(Tensor())});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["accurate"] = accurate;
    ctx->saved_data["with_state"] = with_state;
    ctx->set_materialize_grads(false);
    auto [o, state] = call(q, k, v, slopes, cu_seqlens, initial_state, scale, accurate, with_state);
    return {o, state};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& initial_state = saved[5];
    variable_list out(9);
    const bool of_state = grads[1].defined() && ctx->saved_data["with_state"].toBool();
    if (!grads[0].defined() && !of_state) return out;
    const Tensor grad_o = grads[0].defined() ? grads[0] : at::zeros_like(saved[0]);
    const OptionalTensor initial = initial_state.defined() ? OptionalTensor(initial_state) : std::nullopt;
    auto [grad_q, grad_k, grad_v, grad_initial] =
        call_grad(grad_o, of_state ? OptionalTensor(grads[1]) : std::nullopt, saved[0], saved[1], saved[2], saved[3],
                  saved[4], initial, ctx->saved_data["scale"].toDouble(), ctx->saved_data["accurate"].toBool());
    out[0] = grad_q, out[1] = grad_k, out[2] = grad_v;
    if (initial_state.defined()) out[5] = grad_initial;
    return out;
  }
};

LightningResult autograd(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes,
                         const Tensor& cu_seqlens, const OptionalTensor& initial_state, double scale, bool accurate,
                         bool with_state) {
  check_no_grad(kOp, "slopes", slopes);
  const variable_list out =
      LightningFunction::apply(q, k, v, slopes, cu_seqlens, initial_state, scale, accurate, with_state);
  return {out[0], out[1]};
}

LightningGrads autograd_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const Tensor& q, const Tensor& k,
                             const Tensor& v, const Tensor& slopes, const Tensor& cu_seqlens,
                             const OptionalTensor& initial_state, double scale, bool accurate) {
  constexpr const char* kTwice = "lightning_attention (second derivative)";
  for (const auto& [name, t] :
       {std::pair<const char*, const Tensor&>{"grad_o", grad_o}, {"q", q}, {"k", k}, {"v", v}}) {
    check_no_grad(kTwice, name, t);
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return call_grad(grad_o, grad_state, q, k, v, slopes, cu_seqlens, initial_state, scale, accurate);
}

Tensor autograd_step(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes, const Tensor& state,
                     double scale) {
  for (const auto& [name, t] : {std::pair<const char*, const Tensor&>{"q", q}, {"k", k}, {"v", v}, {"state", state}}) {
    check_no_grad(kStepOp, name, t);
  }
  Tensor o;
  {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    o = call_step(q, k, v, slopes, state, scale);
  }
  if (!state.is_inference()) state.unsafeGetTensorImpl()->bump_version();
  return o;
}

}  // namespace

void check_lightning(const LightningArguments& a) {
  check_heads(kOp, a.q, a.k, a.v, a.slopes);
  check_that(a.cu_seqlens.dim() == 1 && a.cu_seqlens.sym_size(0) > 0, kOp, "cu_seqlens", "have shape [S + 1]",
             a.cu_seqlens.sym_sizes());
  check_dtype(kOp, "cu_seqlens", a.cu_seqlens, {at::kInt});
  check_device(kOp, "cu_seqlens", a.cu_seqlens, "q", a.q);
  constexpr int64_t kMostTokens = (int64_t{1} << 31) - (1 << 16);  // int32 with room for a chunk
  check_that(a.q.sym_size(0) <= kMostTokens, kOp, "N", "be below 2^31 - 2^16", a.q.sym_size(0));
  check_that(a.cu_seqlens.sym_size(0) > 1 || a.q.sym_size(0) == 0, kOp, "cu_seqlens",
             "name a sequence if there are tokens", a.cu_seqlens.sym_sizes());
  if (a.has_initial()) check_state(kOp, "initial_state", *a.initial_state, a.cu_seqlens.sym_size(0) - 1, a.q);
}

void check_lightning_grad(const Tensor& grad_o, const OptionalTensor& grad_state, const LightningArguments& a) {
  check_lightning(a);
  check_sizes(kOp, "grad_o", grad_o, a.q.sym_sizes());
  check_dtype(kOp, "grad_o", grad_o, {a.q.scalar_type()});
  check_device(kOp, "grad_o", grad_o, "q", a.q);
  if (grad_state.has_value() && grad_state->defined()) {
    check_state(kOp, "grad_final_state", *grad_state, a.cu_seqlens.sym_size(0) - 1, a.q);
  }
}

void check_lightning_step(const LightningStepArguments& a) {
  check_heads(kStepOp, a.q, a.k, a.v, a.slopes);
  check_state(kStepOp, "state", a.state, a.q.sym_size(0), a.q);
  TORCH_CHECK(a.state.is_contiguous(), kStepOp, ": state must be contiguous, got strides ", a.state.sym_strides());
}

LightningResult lightning_results(const LightningArguments& a, bool with_state) {
  return {at::empty_symint(a.q.sym_sizes(), a.q.options()),
          empty_state(with_state ? a.cu_seqlens.sym_size(0) - 1 : c10::SymInt(0), a.q)};
}

LightningGrads lightning_grads(const LightningArguments& a) {
  return {at::empty_symint(a.q.sym_sizes(), a.q.options()), at::empty_symint(a.k.sym_sizes(), a.k.options()),
          at::empty_symint(a.v.sym_sizes(), a.v.options()),
          empty_state(a.has_initial() ? a.cu_seqlens.sym_size(0) - 1 : c10::SymInt(0), a.q)};
}

bool lightning_has_kernel(at::ScalarType dtype, int64_t head_dim) {
  return (dtype == at::kBFloat16 || dtype == at::kFloat) && (head_dim == 64 || head_dim == 128);
}

LightningResult lightning_attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes,
                                    const Tensor& cu_seqlens, const OptionalTensor& initial_state,
                                    const LightningOptions& o) {
  return call(q, k, v, slopes, cu_seqlens, initial_state, o.scale, o.accurate, o.with_state);
}

Tensor lightning_attention_step_(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& slopes,
                                 const Tensor& state, double scale) {
  return call_step(q, k, v, slopes, state, scale);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("lightning_attention", qkr::cpu);
  m.impl("_lightning_attention_bwd", qkr::cpu_grad);
  m.impl("lightning_attention_step_", qkr::cpu_step);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("lightning_attention", qkr::meta);
  m.impl("_lightning_attention_bwd", qkr::meta_grad);
  m.impl("lightning_attention_step_", qkr::meta_step);
}
QKR_LIBRARY_IMPL(Autograd, m) {
  m.impl("lightning_attention", qkr::autograd);
  m.impl("_lightning_attention_bwd", qkr::autograd_grad);
  m.impl("lightning_attention_step_", qkr::autograd_step);
}
