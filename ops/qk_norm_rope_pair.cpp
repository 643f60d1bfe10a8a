#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/check.h"
#include "ops/pointwise.h"
#include "ops/qk_norm_rope.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Pair = std::tuple<Tensor, Tensor>;
using PairGrads = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kOp = "qk_norm_rope_pair";

// What must hold between the two; what must hold for each is checked by qk_norm_rope's own Meta functions.
void check(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight, const OptionalTensor& k_weight) {
  check_that(q.dim() == 3, kOp, "q", "be [N, H, D]", q.sym_sizes());
  check_that(k.dim() == 3, kOp, "k", "be [N, H_kv, D]", k.sym_sizes());
  check_dtype(kOp, "k", k, {q.scalar_type()});
  check_device(kOp, "k", k, "q", q);
  check_shape(kOp, "k", k, {q.sym_size(0), k.sym_size(1), q.sym_size(2)});
  TORCH_CHECK(q_weight.has_value() == k_weight.has_value(), kOp,
              ": q_weight must be given together with k_weight, got one of them");
}

OptionalTensor if_defined(const Tensor& t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

struct QkNormRopePair : torch::autograd::Function<QkNormRopePair> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const OptionalTensor& q_weight,
                               const OptionalTensor& k_weight, const OptionalTensor& cos, const OptionalTensor& sin,
                               const OptionalTensor& factor, double eps) {
    // without a norm nothing of q and k is needed
    ctx->save_for_backward({q_weight ? q : Tensor(), q_weight ? k : Tensor(), q_weight.value_or(Tensor()),
                            k_weight.value_or(Tensor()), cos.value_or(Tensor()), sin.value_or(Tensor()),
                            factor.value_or(Tensor())});
    ctx->saved_data["eps"] = eps;
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    auto [q_out, k_out] = qk_norm_rope_pair(q, k, q_weight, k_weight, cos, sin, factor, eps);
    return {q_out, k_out};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_first_derivative_only(kOp);
    const variable_list saved = ctx->get_saved_variables();
    const bool normed = saved[2].defined();
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const auto [grad_q, grad_k, grad_q_weight, grad_k_weight] =
        schema_handle<"qk_restore::_qk_norm_rope_pair_bwd", decltype(qk_norm_rope_pair_bwd_meta)>().call(
            grads[0], grads[1], normed ? saved[0] : grads[0], normed ? saved[1] : grads[1], if_defined(saved[2]),
            if_defined(saved[3]), if_defined(saved[4]), if_defined(saved[5]), if_defined(saved[6]),
            ctx->saved_data["eps"].toDouble());
    return {grad_q,   grad_k,  normed ? grad_q_weight : Tensor(), normed ? grad_k_weight : Tensor(), Tensor(), Tensor(),
            Tensor(), Tensor()};
  }
};

Pair autograd_key(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight, const OptionalTensor& k_weight,
                  const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  for (const auto& [name, t] :
       {std::pair<const char*, const OptionalTensor&>{"cos", cos}, {"sin", sin}, {"factor", factor}}) {
    if (t) check_no_grad(kOp, name, *t);
  }
  if (!nothing_records()) {
    const variable_list out = QkNormRopePair::apply(q, k, q_weight, k_weight, cos, sin, factor, eps);
    return {out[0], out[1]};
  }
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return qk_norm_rope_pair(q, k, q_weight, k_weight, cos, sin, factor, eps);
}

}  // namespace

Pair qk_norm_rope_pair_meta(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight,
                            const OptionalTensor& k_weight, const OptionalTensor& cos, const OptionalTensor& sin,
                            const OptionalTensor& factor, double eps) {
  check(q, k, q_weight, k_weight);
  return {qk_norm_rope_meta(q, q_weight, cos, sin, factor, eps), qk_norm_rope_meta(k, k_weight, cos, sin, {}, eps)};
}

Pair qk_norm_rope_pair_composite(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight,
                                 const OptionalTensor& k_weight, const OptionalTensor& cos, const OptionalTensor& sin,
                                 const OptionalTensor& factor, double eps) {
  check(q, k, q_weight, k_weight);
  return {qk_norm_rope_composite(q, q_weight, cos, sin, factor, eps),
          qk_norm_rope_composite(k, k_weight, cos, sin, {}, eps)};
}

PairGrads qk_norm_rope_pair_bwd_meta(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                                     const OptionalTensor& q_weight, const OptionalTensor& k_weight,
                                     const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor,
                                     double eps) {
  check(q, k, q_weight, k_weight);
  const auto [dq, dq_weight] = qk_norm_rope_bwd_meta(grad_q, q, q_weight, cos, sin, factor, eps);
  const auto [dk, dk_weight] = qk_norm_rope_bwd_meta(grad_k, k, k_weight, cos, sin, {}, eps);
  return {dq, dk, dq_weight, dk_weight};
}

PairGrads qk_norm_rope_pair_bwd_composite(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                                          const OptionalTensor& q_weight, const OptionalTensor& k_weight,
                                          const OptionalTensor& cos, const OptionalTensor& sin,
                                          const OptionalTensor& factor, double eps) {
  check(q, k, q_weight, k_weight);
  const auto [dq, dq_weight] = qk_norm_rope_bwd_composite(grad_q, q, q_weight, cos, sin, factor, eps);
  const auto [dk, dk_weight] = qk_norm_rope_bwd_composite(grad_k, k, k_weight, cos, sin, {}, eps);
  return {dq, dk, dq_weight, dk_weight};
}

Pair qk_norm_rope_pair(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight, const OptionalTensor& k_weight,
                       const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  return schema_handle<"qk_restore::qk_norm_rope_pair", decltype(qk_norm_rope_pair)>().call(q, k, q_weight, k_weight,
                                                                                            cos, sin, factor, eps);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(Autograd, m) { m.impl("qk_norm_rope_pair", qkr::autograd_key); }
QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("qk_norm_rope_pair", qkr::qk_norm_rope_pair_composite);
  m.impl("_qk_norm_rope_pair_bwd", qkr::qk_norm_rope_pair_bwd_composite);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("qk_norm_rope_pair", qkr::qk_norm_rope_pair_meta);
  m.impl("_qk_norm_rope_pair_bwd", qkr::qk_norm_rope_pair_bwd_meta);
}
