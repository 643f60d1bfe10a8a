#include "ops/procrustes.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/check.h"
#include "ops/polar.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using Results = std::tuple<Tensor, Tensor, Tensor>;

constexpr const char* kOp = "procrustes";

void check_procrustes(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  check_that(w_pre.dim() == 2 && w_pre.sym_size(1) > 0, kOp, "w_pre", "be a matrix [rows, d], d > 0", w_pre.sym_sizes());
  check_dtype(kOp, "w_pre", w_pre, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  check_shape(kOp, "w_post", w_post, w_pre.sym_sizes());
  check_dtype(kOp, "w_post", w_post, {w_pre.scalar_type()});
  check_device(kOp, "w_post", w_post, "w_pre", w_pre);
  check_that(anchor >= 0 && std::isfinite(anchor), kOp, "anchor", "be finite and at least 0", anchor);
}

// w_pre^T w_post [d, d] fp64. A sum in fp32 moves R by about 1e-7 kappa(M). An anchor bounds kappa (by 1e3 on real layers at 1e-2):
// then bf16 tensor cores will do, whose products are exact and whose sums are fp32, 40 times faster. Without one kappa may be 1e8.
Tensor cross_product(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  constexpr double kBoundsKappa = 1e-3;
  if (w_pre.is_cuda() && w_pre.scalar_type() == at::kBFloat16 && anchor >= kBoundsKappa) {
    return at::mm(w_pre.t(), w_post, at::kFloat).to(at::kDouble);
  }
  return at::mm(w_pre.to(at::kDouble).t(), w_post.to(at::kDouble));
}

// Any device that has polar.
Results procrustes_composite(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  check_procrustes(w_pre, w_post, anchor);
  const auto [r, certificate] = polar(cross_product(w_pre, w_post, anchor), anchor);
  return {round_once(at::mm(w_pre.to(at::kDouble), r), w_pre.scalar_type()), r, certificate};
}

Results procrustes_meta(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  check_procrustes(w_pre, w_post, anchor);
  const auto fp64 = w_pre.options().dtype(at::kDouble);
  return {at::empty_symint(w_pre.sym_sizes(), w_pre.options()), at::empty_symint({w_pre.sym_size(1), w_pre.sym_size(1)}, fp64),
          at::empty({kPolarColumns}, fp64)};
}

Results procrustes_autograd(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  check_no_grad(kOp, "w_pre", w_pre);
  check_no_grad(kOp, "w_post", w_post);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return procrustes(w_pre, w_post, anchor);
}

}  // namespace

Results procrustes(const Tensor& w_pre, const Tensor& w_post, double anchor) {
  return schema_handle<"qk_restore::procrustes", Results(const Tensor&, const Tensor&, double)>().call(w_pre, w_post, anchor);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("procrustes", qkr::procrustes_composite); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("procrustes", qkr::procrustes_meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("procrustes", qkr::procrustes_autograd); }
