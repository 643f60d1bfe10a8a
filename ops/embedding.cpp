#include "ops/embedding.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "ops/check.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_tokens(const char* op, const Tensor& tokens) {
  check_that(tokens.dim() == 1, op, "tokens", "be [N]", tokens.sym_sizes());
  check_dtype(op, "tokens", tokens, {at::kLong});
}

void check_embedding(const Tensor& weight, const Tensor& tokens) {
  constexpr const char* kOp = "embed_tokens";
  check_that(weight.dim() == 2, kOp, "weight", "be [V, D]", weight.sym_sizes());
  check_tokens(kOp, tokens);
  check_device(kOp, "tokens", tokens, "weight", weight);
}

Tensor embedding_meta(const Tensor& weight, const Tensor& tokens) {
  check_embedding(weight, tokens);
  return at::empty_symint({tokens.sym_size(0), weight.sym_size(1)}, weight.options());
}

// Any backend: ATen looks up and refuses tokens out of range.
Tensor embedding_no_grad(const Tensor& weight, const Tensor& tokens) {
  check_embedding(weight, tokens);
  return at::embedding(weight, tokens);
}

struct Embedding : torch::autograd::Function<Embedding> {
  static Tensor forward(AutogradContext* ctx, const Tensor& weight, const Tensor& tokens) {
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    const Tensor rows = embed_tokens(weight, tokens);
    ctx->save_for_backward({tokens});
    ctx->saved_data["vocabulary"] = weight.sym_size(0).guard_int(__FILE__, __LINE__);
    return rows;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    check_first_derivative_only("embed_tokens");
    at::AutoDispatchBelowADInplaceOrView below_autograd;
    return {embedding_grad(grads[0], ctx->get_saved_variables()[0], ctx->saved_data["vocabulary"].toInt()), Tensor()};
  }
};

Tensor embedding_autograd(const Tensor& weight, const Tensor& tokens) {
  if (!nothing_records()) return Embedding::apply(weight, tokens);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return embed_tokens(weight, tokens);
}

void check(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  constexpr const char* kOp = "embedding_grad";
  check_that(grad.dim() == 2, kOp, "grad", "be [N, D]", grad.sym_sizes());
  check_dtype(kOp, "grad", grad, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  check_tokens(kOp, tokens);
  check_shape(kOp, "tokens", tokens, {grad.sym_size(0)});
  check_device(kOp, "tokens", tokens, "grad", grad);
  check_that(vocabulary >= 0 && vocabulary <= std::numeric_limits<int32_t>::max(), kOp, "vocabulary",
             "be at least 0 and fit into 32 bits", vocabulary);
}

}  // namespace

Tensor embedding_grad_meta(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  check(grad, tokens, vocabulary);
  return at::empty_symint({vocabulary, grad.sym_size(1)}, grad.options());
}

Tensor embedding_grad_composite(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  check(grad, tokens, vocabulary);
  return at::embedding_dense_backward(grad.to(wide_type(grad)), tokens, vocabulary, -1, false).to(grad.scalar_type());
}

Tensor embed_tokens(const Tensor& weight, const Tensor& tokens) {
  return schema_handle<"qk_restore::embed_tokens", decltype(embed_tokens)>().call(weight, tokens);
}

Tensor embedding_grad(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  return schema_handle<"qk_restore::embedding_grad", decltype(embedding_grad)>().call(grad, tokens, vocabulary);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(Autograd, m) { m.impl("embed_tokens", qkr::embedding_autograd); }
QKR_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("embed_tokens", qkr::embedding_no_grad); }
QKR_LIBRARY_IMPL(CPU, m) { m.impl("embedding_grad", qkr::embedding_grad_composite); }
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("embed_tokens", qkr::embedding_meta);
  m.impl("embedding_grad", qkr::embedding_grad_meta);
}
