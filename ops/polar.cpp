#include "ops/polar.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/check.h"
#include "ops/polar_iteration.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;
using Results = std::tuple<Tensor, Tensor>;

Results polar_cpu(const Tensor& m, double anchor) {
  check_polar(m, anchor);
  const auto lapack = [](const Tensor& one) { return at::linalg_svd(one, /*full_matrices=*/true); };
  return polar_results(m, polar_by_svd(polar_problem(m, anchor), lapack));
}

Results polar_meta(const Tensor& m, double anchor) {
  check_polar(m, anchor);
  std::vector<c10::SymInt> rows = m.sym_sizes().slice(0, m.dim() - 2).vec();
  rows.emplace_back(int64_t{kPolarColumns});
  return {at::empty_symint(m.sym_sizes(), m.options()), at::empty_symint(rows, m.options().dtype(at::kDouble))};
}

Results polar_autograd(const Tensor& m, double anchor) {
  check_no_grad("polar", "m", m);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return polar(m, anchor);
}

}  // namespace

PolarCertificate read_certificate(const Tensor& row) {
  check_shape("read_certificate", "row", row, {kPolarColumns});
  check_dtype("read_certificate", "row", row, {at::kDouble});
  const Tensor host = row.cpu().contiguous();
  const double* const c = host.const_data_ptr<double>();
  const auto flags = static_cast<int64_t>(c[kPolarFlags]);
  return {c[kPolarOrthogonality],
          c[kPolarSkew],
          c[kPolarCholesky] == 1,
          static_cast<int64_t>(c[kPolarIterations]),
          c[kPolarGapBound],
          c[kPolarFallback] == 1,
          c[kPolarKappa],
          (flags & kPolarZeroMatrix) != 0,
          (flags & kPolarRankDeficient) != 0};
}

Results polar(const Tensor& m, double anchor) {
  return schema_handle<"qk_restore::polar", Results(const Tensor&, double)>().call(m, anchor);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("polar", qkr::polar_cpu); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("polar", qkr::polar_meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("polar", qkr::polar_autograd); }
