#include "ops/polar_iteration.h"

#include <ATen/ATen.h>

#include <limits>
#include <vector>

#include "csrc/polar/params.h"
#include "ops/check.h"
#include "ops/polar.h"

namespace qkr {
namespace {

using at::Tensor;

constexpr const char* kOp = "polar";
constexpr double kEps = std::numeric_limits<double>::epsilon();
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kAccepted = 1e-12;   // of ||R^T R - I||_F / sqrt(n): ten times where the iteration stops
constexpr double kSymmetric = 1e-10;  // of ||H - H^T||_F / ||M||_F

constexpr int64_t kGramTile = 1024;     // thinner tiles leave a GPU's multiprocessors idle

Tensor frobenius(const Tensor& m) { return at::linalg_vector_norm(m, 2, {-2, -1}); }  // [B, n, n] -> [B]

Tensor identity_like(const Tensor& m) { return at::eye(m.size(-1), m.options()); }

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

[[noreturn]] void fail_not_finite(at::IntArrayRef batch, int64_t matrix) {
  TORCH_CHECK(false, kOp, ": m must be finite, got NaN or Inf in matrix", matrix_name(batch, matrix));
}

void check_finite(const Tensor& m, at::IntArrayRef batch) {
  const Tensor finite = m.isfinite().flatten(1).all(1).cpu();
  if (!finite.all().item<bool>()) fail_not_finite(batch, finite.logical_not().nonzero()[0][0].item<int64_t>());
}

// {m / s, m is zero}, s >= sigma_max: the square root of ||m||_1 ||m||_inf. The roots are taken apart so that nothing overflows.
std::pair<Tensor, Tensor> scaled(const Tensor& m) {
  const Tensor magnitude = m.abs();
  const Tensor bound = magnitude.sum(-2).amax(-1).sqrt() * magnitude.sum(-1).amax(-1).sqrt();  // [B]
  const Tensor zero = bound == 0;
  return {m / bound.masked_fill(zero, 1).view({-1, 1, 1}), zero};
}

// A vector without structure: [B, n, 1].
Tensor start_vector(const Tensor& like) {
  const int64_t n = like.size(-1);
  const Tensor v = (at::arange(1, n + 1, like.options()) * 1.618033988749895).frac().add_(0.25);
  return v.view({1, n, 1}).expand({like.size(0), n, 1});
}

// Extreme eigenvalues of H + delta I by power iteration on it and on its inverse, from a start without structure. Two or three
// rounds are within a factor of 2, and triangular solves are slow on a GPU.
Tensor condition_estimate(const Tensor& h, const Tensor& cholesky) {
  Tensor v = start_vector(h), w = v;
  constexpr int kRounds = 3;
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
  out.select(1, kPolarOrthogonality).copy_(frobenius(gram_minus_identity(r, kGramTile)) / std::sqrt(n));
  out.select(1, kPolarSkew).copy_(skew / size);
  out.select(1, kPolarCholesky).copy_(passed);
  out.select(1, kPolarGapBound).copy_(gap);
  out.select(1, kPolarKappa).copy_(kappa);
  out.select(1, kPolarFlags).copy_(zero * static_cast<double>(kPolarZeroMatrix));
  return out;
}

struct Iterated {
  Tensor r;                    // [B, n, n]
  std::vector<int64_t> steps;  // [B]
};

Tensor index_tensor(const std::vector<int64_t>& indices, const Tensor& like) {
  return at::tensor(indices, at::kLong).to(like.device());
}

// gram[:, rows, columns] <- (x^T x)[:, rows, columns], ranges of `size` from the two starts, `count` of them `step` apart: one
// batched product.
void gram_tiles(Tensor& gram, const Tensor& x, int64_t row, int64_t column, int64_t size, int64_t step, int64_t count) {
  const int64_t n = x.size(-1), batch = x.size(0);
  for (int64_t b = 0; b < batch; ++b) {
    const auto tiles = [&](int64_t first) {  // [count, n, size]
      return x.select(0, b).as_strided({count, n, size}, {step, n, 1}, x.storage_offset() + b * n * n + first);
    };
    Tensor out = gram.as_strided({count, size, size}, {step * (n + 1), n, 1},
                                 gram.storage_offset() + b * n * n + row * n + column);
    at::bmm_out(out, tiles(row).mT(), tiles(column));
  }
}

// Scales x and its gram - I, in place, by a bound of the largest singular value. ||X^T X||_inf >= sigma_max^2 is certain, but for a
// large matrix several times too much, which costs steps. 24 rounds of power iteration from a random start find sigma_max to 12 %
// for n up to 1e4, whatever the spectrum, all but surely (Kuczynski & Wozniakowski 1992); if they do not, the certificate fails
// and the matrix goes to the SVD.
void scale_by_gram(Tensor& x, Tensor& gram) {
  gram.diagonal(0, -2, -1).add_(1);
  Tensor bound = gram.abs().sum(-1).amax(-1).view({-1, 1, 1});  // [B, 1, 1]
  constexpr int kRounds = 24;
  constexpr double kMargin = 1.3;  // of sigma_max^2
  Tensor v = start_vector(gram), length;
  for (int round = 0; round < kRounds; ++round) {
    v = at::bmm(gram, v);
    length = at::linalg_vector_norm(v, 2, {1, 2}, true);
    v = v.div_(length);
  }
  bound = at::minimum(bound, kMargin * length);
  x.div_(bound.sqrt());
  gram.div_(bound);
  gram.diagonal(0, -2, -1).sub_(1);
}

// How far each matrix of the working set is along its schedule (csrc/polar/params.h).
struct Progress {
  int64_t index;  // of the batch
  double l;       // guess of the smallest singular value
};

// The matrices that are still worked on. Converged ones leave, so that they are neither worked on nor moved any more.
struct WorkingSet {
  Tensor x, gram;         // [active, n, n]
  Tensor distance;        // [active], on the CPU
  std::vector<Progress> progress;
};

// Moves what has converged to `out`.
void retire(WorkingSet& set, int64_t step, double tolerance, Iterated& out) {
  const double* const distance = set.distance.const_data_ptr<double>();
  std::vector<int64_t> kept, finished, places;
  std::vector<Progress> progress;
  for (size_t i = 0; i < set.progress.size(); ++i) {
    if (!(distance[i] <= tolerance)) {
      kept.push_back(static_cast<int64_t>(i));
      progress.push_back(set.progress[i]);
      continue;
    }
    finished.push_back(static_cast<int64_t>(i));
    places.push_back(set.progress[i].index);
    out.steps[places.back()] = step;
  }
  if (finished.empty()) return;
  out.r.index_copy_(0, index_tensor(places, set.x), set.x.index_select(0, index_tensor(finished, set.x)));
  set.progress = progress;
  if (kept.empty()) return;
  set.distance = set.distance.index_select(0, at::tensor(kept, at::kLong));
  set.x = set.x.index_select(0, index_tensor(kept, set.x));
  set.gram = set.gram.index_select(0, index_tensor(kept, set.x));
}

// X <- rho/2 (3 X - rho^2 X X^T X), each matrix with its own rho.
void step_all(WorkingSet& set, double root_n) {
  const double* const distance = set.distance.const_data_ptr<double>();
  std::vector<double> from_x, from_product;
  for (size_t i = 0; i < set.progress.size(); ++i) {
    const double rho = polar_next_rho(set.progress[i].l, distance[i], root_n);
    from_product.push_back(-0.5 * rho * rho * rho);
    from_x.push_back(1.5 * rho + from_product.back());  // gram lacks the identity
  }
  if (set.progress.size() == 1) {  // a large matrix, likely: one pass less
    set.x = at::baddbmm(set.x, set.x, set.gram, from_x[0], from_product[0]);
    return;
  }
  const auto each = [&](const std::vector<double>& values) {
    return at::tensor(values, at::kDouble).to(set.x.device()).view({-1, 1, 1});
  };
  set.x = at::bmm(set.x, set.gram).mul_(each(from_product)).addcmul_(set.x, each(from_x));
}

Iterated newton_schulz(const Tensor& m, const NewtonSchulzOptions& options) {
  const int64_t batch = m.size(0);
  const double root_n = std::sqrt(static_cast<double>(m.size(-1)));
  Iterated out{at::empty_like(m), std::vector<int64_t>(batch, options.max_steps)};
  WorkingSet set{m.clone(), {}, {}, {}};
  for (int64_t b = 0; b < batch; ++b) set.progress.push_back({b, options.sigma_min});
  for (int64_t step = 0; step <= options.max_steps; ++step) {
    if (step > 0) step_all(set, root_n);
    set.gram = gram_minus_identity(set.x, kGramTile);
    if (step == 0) scale_by_gram(set.x, set.gram);
    set.distance = frobenius(set.gram).cpu();
    retire(set, step, PolarSchedule::kOrthogonal * root_n, out);
    if (set.progress.empty()) return out;
  }
  std::vector<int64_t> unfinished;
  for (const Progress& p : set.progress) unfinished.push_back(p.index);
  out.r.index_copy_(0, index_tensor(unfinished, m), set.x);
  return out;
}

}  // namespace

Tensor gram_minus_identity(const Tensor& x, int64_t tile) {
  const int64_t n = x.size(-1);
  Tensor gram;
  if (n % (4 * tile) == 0) {
    gram = at::empty_like(x);
    const int64_t half = n / 2, quarter = n / 4;
    gram_tiles(gram, x, half, 0, half, n, 1);
    gram_tiles(gram, x, quarter, 0, quarter, half, 2);
    gram_tiles(gram, x, 0, 0, quarter, quarter, 4);
    const auto mirror = [&](int64_t start, int64_t size) {
      gram.narrow(1, start, size).narrow(2, start + size, size).copy_(gram.narrow(1, start + size, size).narrow(2, start, size).mT());
    };
    mirror(0, half);
    mirror(0, quarter);
    mirror(half, quarter);
  } else {
    gram = at::bmm(x.mT(), x);
  }
  gram.diagonal(0, -2, -1).sub_(1);
  return gram;
}

void check_polar(const Tensor& m, double anchor) {
  check_that(m.dim() >= 2, kOp, "m", "have at least 2 dimensions", m.dim());
  check_that(m.sym_size(-1) == m.sym_size(-2) && m.sym_size(-1) > 0, kOp, "m", "hold square matrices [..., n, n], n > 0",
             m.sym_sizes());
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

std::vector<int64_t> failed_matrices(const Tensor& certificate, at::IntArrayRef batch) {
  std::vector<int64_t> failed;
  const double* row = certificate.const_data_ptr<double>();  // not through tensors: there may be thousands
  for (int64_t b = 0; b < certificate.size(0); ++b, row += kPolarColumns) {
    if (row[kPolarFlags] == kPolarHeadNotFinite) fail_not_finite(batch, b);
    const bool orthogonal = row[kPolarOrthogonality] <= kAccepted, symmetric = row[kPolarSkew] <= kSymmetric;
    if (!orthogonal || !symmetric || row[kPolarCholesky] != 1) failed.push_back(b);
  }
  return failed;
}

PolarSolution polar_by_iteration(const PolarProblem& problem, const NewtonSchulzOptions& options, const SvdOfOne& svd) {
  const Tensor& m = problem.m;
  if (m.size(0) == 0) return {m, at::zeros({0, kPolarColumns}, m.options())};
  // a zero matrix starts, and so ends, at I
  Iterated iterated = newton_schulz(at::where(problem.zero.view({-1, 1, 1}), identity_like(m), m), options);
  Tensor& r = iterated.r;
  Tensor certificate = certificate_of(m, problem.zero, r);
  const std::vector<int64_t> failed = failed_matrices(certificate.cpu(), {});
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
