#include "tests/bench/matrices.h"

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {
namespace {

using at::Tensor;

Tensor one_or_many(const Tensor& m) { return m.size(0) == 1 ? m[0] : m; }
Tensor flat(const Tensor& m) { return m.reshape({-1, m.size(-2), m.size(-1)}); }  // [..., n, n] -> [batch, n, n]

double worst_norm(const Tensor& m) {
  return at::linalg_vector_norm(m, 2, {-2, -1}).max().item<double>() / std::sqrt(m.size(-1));
}

// Columns of norms from 1 down to 1/6: together with 5/4 as many rows as columns, W^T W has a condition number near 1e4.
Tensor uneven_columns(at::IntArrayRef shape) {
  const int64_t d = shape.back();
  return at::randn(shape, on_device(at::kFloat)) * at::logspace(0, -0.75, d, 10, on_device(at::kFloat));
}

Tensor moved(const Tensor& w) { return w + 0.02 * w.std() * at::randn_like(w); }

}  // namespace

Tensor gaussian(int64_t batch, int64_t n, at::ScalarType type) { return one_or_many(at::randn({batch, n, n}, on_device(type))); }

Tensor correlated(int64_t batch, int64_t n, at::ScalarType type) {
  const Tensor before = uneven_columns({batch, 5 * n / 4, n}), after = moved(before);
  Tensor m = at::empty({batch, n, n}, on_device(type));
  for (int64_t i = 0; i < batch; ++i) m[i].copy_(at::mm(before[i].t().to(at::kDouble), after[i].to(at::kDouble)));
  return one_or_many(m);
}

std::pair<Tensor, Tensor> tuned_pair(int64_t rows, int64_t d, at::ScalarType type) {
  const Tensor before = 0.02 * uneven_columns({rows, d});
  return {before.to(type), moved(before).to(type)};
}

Tensor polar_by_svd(const Tensor& m, const std::string& driver) {
  const auto [u, s, vh] = driver.empty() ? at::linalg_svd(m, false) : at::linalg_svd(m, false, driver);
  return at::matmul(u, vh);
}

Tensor reference_factors(const Tensor& m) {
  constexpr int64_t kFew = 4;
  const Tensor all = flat(m).to(at::kDouble);
  if (m.size(-1) <= 256) return polar_by_svd(all.narrow(0, 0, std::min(kFew, all.size(0))).cpu(), "").to(m.device());
  if (!on_gpu() || all.size(0) > 1 || m.size(-1) > 2560) return {};
  return polar_by_svd(all, "gesvd");
}

double orthogonality(const Tensor& r) {
  double worst = 0;
  const Tensor all = flat(r);
  constexpr int64_t kPiece = 64;  // of the batch at a time, for memory's sake
  for (int64_t begin = 0; begin < all.size(0); begin += kPiece) {
    const Tensor some = all.narrow(0, begin, std::min(kPiece, all.size(0) - begin)).to(at::kDouble);
    const double here = worst_norm(at::matmul(some.mT(), some) - at::eye(some.size(-1), some.options()));
    if (!(here <= worst)) worst = here;  // NaN is worst of all
  }
  return worst;
}

double distance(const Tensor& r, const Tensor& others) {
  const Tensor theirs = flat(others);
  return worst_norm(flat(r).narrow(0, 0, theirs.size(0)).to(at::kDouble) - theirs.to(at::kDouble));
}

CertificateSummary summary(const Tensor& certificate) {
  const Tensor rows = certificate.reshape({-1, kPolarColumns}).cpu();
  const auto column = [&](PolarColumn c) { return rows.select(1, c); };
  CertificateSummary all;
  all.gap = column(kPolarGapBound).max().item<double>();
  all.kappa = column(kPolarKappa).max().item<double>();
  all.steps = column(kPolarIterations).sum().item<double>();
  const double fallbacks = column(kPolarFallback).sum().item<double>();
  all.text = concat("gap ≤ ", scientific(all.gap, 0), ", kappa ", scientific(all.kappa, 0));
  if (fallbacks > 0) all.text += concat(", ", fallbacks, " by SVD");
  return all;
}

std::string factor_text(const Tensor& r, const Tensor& reference) {
  std::string text = "orthogonality " + scientific(orthogonality(r), 1);
  if (reference.defined()) text += ", error " + scientific(distance(r, reference), 1);
  return text;
}

}  // namespace qkr::bench
