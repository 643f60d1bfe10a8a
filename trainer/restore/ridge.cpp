#include "trainer/restore/ridge.h"

#include <ATen/ATen.h>

#include "trainer/core/error.h"

namespace qkr {
namespace {

using at::Tensor;

struct Ridge {
  Tensor factor;  // [groups, n, n] lower Cholesky factor of G + lambda I
  Tensor lambda;  // [groups]
};

Ridge factor_gram(const Tensor& k, double ridge) {  // k [groups, n, columns]
  const Tensor gram = at::bmm(k, k.transpose(1, 2));
  const Tensor mean = gram.diagonal(0, 1, 2).mean(1);
  const Tensor lambda = at::where(mean == 0, at::ones_like(mean), ridge * mean);  // K = 0 sees nothing, whatever the ridge
  const Tensor shifted = gram + lambda.view({-1, 1, 1}) * at::eye(gram.size(1), gram.options());
  const auto [factor, info] = at::linalg_cholesky_ex(shifted);
  if (info.count_nonzero().item<int64_t>() != 0) {
    fail_run("restore: K K^T + lambda I must be positive definite, got a matrix without a Cholesky factor at qk_restore.ridge ", ridge,
             "; a larger ridge helps");
  }
  return {factor, lambda};
}

}  // namespace

RidgeResult ridge_by_input(const Tensor& q_pre, const Tensor& q_post, const Tensor& k_pre, int64_t groups, double ridge) {
  const int64_t d = q_pre.size(1);
  const Tensor k = k_pre.reshape({groups, -1, d});                  // [g, n, d]
  const Tensor change = (q_pre - q_post).reshape({groups, -1, d});  // [g, m, d]
  const Ridge r = factor_gram(k, ridge);
  const Tensor seen = at::cholesky_solve(at::bmm(k, change.transpose(1, 2)), r.factor);  // [g, n, m]
  const Tensor back = at::bmm(seen.transpose(1, 2), k).reshape(q_pre.sizes());
  return {at::where(back == 0, q_post, q_post + back), r.lambda};  // the sum alone would turn -0 into +0
}

RidgeResult ridge_by_head(const Tensor& q_pre, const Tensor& q_post, const Tensor& k_pre, int64_t kv_heads, double ridge) {
  const int64_t columns = q_pre.size(1), dim = k_pre.size(0) / kv_heads;
  const Tensor k = k_pre.reshape({kv_heads, dim, columns});
  if (ridge == 0) return {q_pre, at::zeros({kv_heads}, q_pre.options())};
  const Ridge r = factor_gram(k, ridge);
  // F x = x - lambda (G + lambda I)^-1 x, for the heads of a group side by side
  const Tensor change = (q_pre - q_post).reshape({kv_heads, -1, dim, columns}).transpose(1, 2).reshape({kv_heads, dim, -1});
  const Tensor lost = r.lambda.view({-1, 1, 1}) * at::cholesky_solve(change, r.factor);  // [KV, D, heads * columns]
  const Tensor by_head = lost.reshape({kv_heads, dim, -1, columns}).transpose(1, 2).reshape(q_pre.sizes());
  return {at::where(by_head == 0, q_pre, q_pre - by_head), r.lambda};
}

}  // namespace qkr
