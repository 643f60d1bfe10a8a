#include "ops/polar_iteration.h"

#include <ATen/ATen.h>

#include <limits>
#include <vector>

#include "ops/check.h"
#include "ops/polar.h"

namespace qkr {
namespace {

using at::Tensor;

constexpr const char* kOp = "polar";
constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kOrthogonal = 1e-13;  // of ||R^T R - I||_F / sqrt(n): where the iteration stops
constexpr double kSymmetric = 1e-10;   // of ||H - H^T||_F / ||M||_F

Tensor frobenius(const Tensor& m) { return at::linalg_vector_norm(m, 2, {-2, -1}); }  // [B, n, n] -> [B]

Tensor identity_like(const Tensor& m) { return at::eye(m.size(-1), m.options()); }

// ||x - I||_F / sqrt(n) per matrix.
Tensor distance_from_identity(const Tensor& x) { return frobenius(x - identity_like(x)) / std::sqrt(x.size(-1)); }

// "3" for [B, n, n], "(0, 3)" for [A, B, n, n].
std::string matrix_name(at::IntArrayRef batch, int64_t flat) {
  if (batch.empty()) return "";
  std::string name;
  for (size_t axis = batch.size(); axis-- > 0;) {
    name = std::to_string(flat % batch[axis]) + (name.empty() ? "" : ", ") + name;
    flat /= batch[axis];
  }
  return batch.size() == 1 ? " " + name : " (" + name + ")";
}

void check_finite(const Tensor& m, at::IntArrayRef batch) {
  const Tensor finite = m.isfinite().flatten(1).all(1).cpu();
  if (finite.all().item<bool>()) return;
  const int64_t first = finite.logical_not().nonzero()[0][0].item<int64_t>();
  TORCH_CHECK(false, kOp, ": m must be finite, got NaN or Inf in matrix", matrix_name(batch, first));
}

// {m / s, m is zero}, s >= sigma_max: the square root of ||m||_1 ||m||_inf. The roots are taken apart so that nothing overflows.
std::pair<Tensor, Tensor> scaled(const Tensor& m) {
  const Tensor magnitude = m.abs();
  const Tensor bound = magnitude.sum(-2).amax(-1).sqrt() * magnitude.sum(-1).amax(-1).sqrt();  // [B]
  const Tensor zero = bound == 0;
  return {m / bound.masked_fill(zero, 1).view({-1, 1, 1}), zero};
}

// Extreme eigenvalues of H + delta I by power iteration on it and on its inverse, from a start without structure.
Tensor condition_estimate(const Tensor& h, const Tensor& cholesky) {
  const int64_t n = h.size(-1);
  Tensor v = (at::arange(1, n + 1, h.options()) * 1.618033988749895)
                 .frac()
                 .add_(0.25)
                 .view({1, n, 1})
                 .expand({h.size(0), n, 1});
  Tensor w = v;
  constexpr int kRounds = 12;
  for (int round = 0; round < kRounds; ++round) {
    v = at::bmm(h, v / at::linalg_vector_norm(v, 2, {1, 2}, true));
    w = at::cholesky_solve(w / at::linalg_vector_norm(w, 2, {1, 2}, true), cholesky);
  }
  return frobenius(v) * frobenius(w);  // [B]
}

// Columns of the certificate that follow from M and R alone; the others are 0. Fresh memory: a few times that of m.
Tensor certificate_of(const Tensor& m, const Tensor& zero, const Tensor& r) {
  const int64_t batch = m.size(0), n = m.size(-1);
  if (batch > 1 && n > 256) {  // large ones one by one: batched Cholesky routines are made for small matrices
    std::vector<Tensor> rows;
    for (int64_t b = 0; b < batch; ++b) {
      rows.push_back(certificate_of(m.narrow(0, b, 1), zero.narrow(0, b, 1), r.narrow(0, b, 1)));
    }
    return at::cat(rows);
  }
  const Tensor size = frobenius(m).masked_fill(zero, 1);  // [B]
  const Tensor h = at::bmm(r.mT(), m);
  const Tensor skew = frobenius(h - h.mT());
  const Tensor delta = size * (n * kEps);
  const Tensor shifted = (h + h.mT()).mul_(0.5).add_(identity_like(h) * delta.view({-1, 1, 1}));
  const auto [factor, info] = at::linalg_cholesky_ex(shifted);
  const Tensor passed = info == 0;
  const Tensor trace = h.diagonal(0, -2, -1).sum(-1);
  const Tensor gap =
      ((2 * n * delta + std::sqrt(n) * skew) / trace).masked_fill(passed.logical_not(), kInfinity).masked_fill(zero, 0);
  const Tensor safe = at::where(passed.view({-1, 1, 1}), factor, identity_like(h));
  const Tensor kappa = condition_estimate(shifted, safe).masked_fill(passed.logical_not().logical_or(zero), NAN);

  Tensor out = at::zeros({batch, kPolarColumns}, m.options());
  out.select(1, kPolarOrthogonality).copy_(distance_from_identity(at::bmm(r.mT(), r)));
  out.select(1, kPolarSkew).copy_(skew / size);
  out.select(1, kPolarCholesky).copy_(passed);
  out.select(1, kPolarGapBound).copy_(gap);
  out.select(1, kPolarKappa).copy_(kappa);
  out.select(1, kPolarFlags).copy_(zero * static_cast<double>(kPolarZeroMatrix));
  return out;
}

struct Iterated {
  Tensor r;                     // [B, n, n]
  std::vector<int64_t> steps;   // [B]
  std::vector<bool> converged;  // [B]
};

Tensor index_tensor(const std::vector<int64_t>& indices, const Tensor& like) {
  return at::tensor(indices, at::kLong).to(like.device());
}

// X <- rho/2 (3 X - rho^2 X X^T X). The rho that is best for singular values in [l, 1] sends 1 to where it sends l; with a small
// l that would lose the directions of the large ones to rounding (measured: R off by 2e-13 at kappa 10), so rho is capped
// where f(1) = 0.1, as in Chen & Chow 2014, at 2 % less growth a step. Converged matrices leave the working set, so that they
// are neither worked on nor moved any more.
Iterated newton_schulz(const Tensor& m, const NewtonSchulzOptions& options) {
  const int64_t batch = m.size(0);
  Iterated out{m.clone(), std::vector<int64_t>(batch, options.max_steps), std::vector<bool>(batch, false)};
  std::vector<int64_t> active(batch);
  for (int64_t b = 0; b < batch; ++b) active[b] = b;
  Tensor x = m;
  double l = options.sigma_min;
  for (int step = 0; !active.empty(); ++step) {
    Tensor gram = at::bmm(x.mT(), x);
    const Tensor done = (distance_from_identity(gram) <= kOrthogonal).cpu();
    const bool* const is_done = done.const_data_ptr<bool>();
    std::vector<int64_t> kept, finished, still_active, finished_batch;
    for (size_t i = 0; i < active.size(); ++i) {
      (is_done[i] ? finished : kept).push_back(static_cast<int64_t>(i));
      (is_done[i] ? finished_batch : still_active).push_back(active[i]);
    }
    for (const int64_t b : finished_batch) {
      out.steps[b] = step;
      out.converged[b] = true;
    }
    if (!finished.empty()) {
      out.r.index_copy_(0, index_tensor(finished_batch, m), x.index_select(0, index_tensor(finished, m)));
      x = x.index_select(0, index_tensor(kept, m));
      gram = gram.index_select(0, index_tensor(kept, m));
      active = still_active;
    }
    if (active.empty() || step == options.max_steps) break;
    constexpr double kLargestRho = 1.69770248526;
    const double rho = std::min(kLargestRho, std::sqrt(3 / (1 + l + l * l)));
    x = at::baddbmm(x, x, gram, 1.5 * rho, -0.5 * rho * rho * rho);
    const auto f = [rho](double sigma) { return 0.5 * rho * sigma * (3 - rho * rho * sigma * sigma); };
    l = std::min({1.0, f(l), f(1.0)});
  }
  return out;
}

}  // namespace

void check_polar(const Tensor& m, double anchor) {
  check_that(m.dim() >= 2, kOp, "m", "have at least 2 dimensions", m.dim());
  check_that(m.size(-1) == m.size(-2) && m.size(-1) > 0, kOp, "m", "hold square matrices [..., n, n], n > 0",
             m.sizes());
  check_dtype(kOp, "m", m, {at::kFloat, at::kDouble});
  check_that(anchor >= 0 && std::isfinite(anchor), kOp, "anchor", "be finite and at least 0", anchor);
}

PolarProblem polar_problem(const Tensor& m, double anchor) {
  const int64_t n = m.size(-1);
  int64_t batch = 1;
  for (const int64_t size : m.sizes().slice(0, m.dim() - 2)) batch *= size;  // not view(-1): the batch may be empty
  const Tensor flat = m.to(at::kDouble).reshape({batch, n, n});
  check_finite(flat, m.sizes().slice(0, m.dim() - 2));
  if (batch == 0) return {flat, at::zeros({0}, flat.options().dtype(at::kBool))};
  auto [x, zero] = scaled(flat);
  if (anchor == 0) return {x.contiguous(), zero};
  const Tensor mean_diagonal = x.diagonal(0, -2, -1).abs().mean(-1);  // [B]
  std::tie(x, zero) = scaled(x + (anchor * mean_diagonal).view({-1, 1, 1}) * identity_like(x));
  return {x.contiguous(), zero};
}

std::tuple<Tensor, Tensor> polar_results(const Tensor& m, const PolarSolution& solution) {
  std::vector<int64_t> rows = m.sizes().slice(0, m.dim() - 2).vec();
  rows.push_back(kPolarColumns);
  return {solution.r.to(m.scalar_type()).view(m.sizes()), solution.certificate.view(rows)};
}

std::tuple<Tensor, bool> polar_from_svd(const Tensor& m, const SvdOfOne& svd) {
  const int64_t n = m.size(0);
  const auto [u, s, vh] = svd(m);
  const Tensor values = s.cpu();
  const int64_t rank = (values > n * kEps * values[0]).sum().item<int64_t>();
  if (rank == n) return {at::mm(u, vh), false};
  // R = U1 V1^T + U2 Q V2^T with any orthogonal Q is a polar factor; Q = polar(U2^T V2) brings R nearest to I
  const Tensor u2 = u.narrow(1, rank, n - rank), v2h = vh.narrow(0, rank, n - rank);
  const Tensor q = std::get<0>(polar_from_svd(at::mm(v2h, u2).t().contiguous(), svd));
  return {at::addmm(at::mm(at::mm(u2, q), v2h), u.narrow(1, 0, rank), vh.narrow(0, 0, rank)), true};
}

PolarSolution polar_by_svd(const PolarProblem& problem, const SvdOfOne& svd) {
  const Tensor& m = problem.m;
  if (m.size(0) == 0) return {m, at::zeros({0, kPolarColumns}, m.options())};
  Tensor r = at::empty_like(m);
  Tensor flags = at::zeros({m.size(0)}, at::kDouble);
  const Tensor zero = problem.zero.cpu();
  for (int64_t b = 0; b < m.size(0); ++b) {
    if (zero[b].item<bool>()) {
      r[b].copy_(identity_like(m));
      continue;
    }
    const auto [factor, deficient] = polar_from_svd(m[b], svd);
    r[b].copy_(factor);
    if (deficient) flags[b] = static_cast<double>(kPolarRankDeficient);
  }
  Tensor certificate = certificate_of(m, problem.zero, r);
  certificate.select(1, kPolarFlags).add_(flags.to(m.device()));
  return {r, certificate};
}

PolarSolution polar_by_iteration(const PolarProblem& problem, const NewtonSchulzOptions& options, const SvdOfOne& svd) {
  const Tensor& m = problem.m;
  if (m.size(0) == 0) return {m, at::zeros({0, kPolarColumns}, m.options())};
  // a zero matrix starts, and so ends, at I
  Iterated iterated = newton_schulz(at::where(problem.zero.view({-1, 1, 1}), identity_like(m), m), options);
  Tensor& r = iterated.r;
  Tensor certificate = certificate_of(m, problem.zero, r);
  const Tensor seen = certificate.cpu();  // one copy: what follows is decided on the host
  std::vector<int64_t> failed;
  for (int64_t b = 0; b < m.size(0); ++b) {
    const PolarCertificate c = read_certificate(seen[b]);
    if (!iterated.converged[b] || !c.cholesky || !(c.skew <= kSymmetric)) failed.push_back(b);
  }
  if (!failed.empty()) {
    const Tensor where = index_tensor(failed, m);
    const PolarSolution again = polar_by_svd({m.index_select(0, where), problem.zero.index_select(0, where)}, svd);
    again.certificate.select(1, kPolarFallback).fill_(1);
    r.index_copy_(0, where, again.r);
    certificate.index_copy_(0, where, again.certificate);
  }
  certificate.select(1, kPolarIterations).copy_(at::tensor(iterated.steps, at::kDouble));
  return {r, certificate};
}

}  // namespace qkr
