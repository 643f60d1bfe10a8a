#include "ops/polar.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/polar_iteration.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

Tensor random_orthogonal(int64_t n) { return std::get<0>(at::linalg_qr(at::randn({n, n}, at::kDouble))); }

struct Planted {
  Tensor m;  // [n, n] fp64
  Tensor r;  // its polar factor
};

// m = U diag(s) V^T with singular values from 1 down to 1/kappa, evenly spread on a log scale.
Planted planted(int64_t n, double kappa) {
  const Tensor u = random_orthogonal(n), v = random_orthogonal(n);
  const Tensor s = at::logspace(0, -std::log10(kappa), n, 10, at::kDouble);
  return {at::mm(u * s, v.t()), at::mm(u, v.t())};
}

double distance(const Tensor& a, const Tensor& b) {
  return at::linalg_vector_norm(a.cpu() - b.cpu()).item<double>() / std::sqrt(a.size(-1));
}

// The operator itself, on both backends.
class Polar : public test::DeviceTest {
 protected:
  PolarCertificate certificate(const Tensor& c) { return read_certificate(c); }
};

TEST_P(Polar, RecoversThePlantedFactorAtEveryConditionNumber) {
  at::manual_seed(1);
  for (const int64_t n : {1, 2, 31, 128}) {
    for (double kappa = 1e1; kappa < 2e8; kappa *= 10) {
      const Planted p = planted(n, n == 1 ? 1 : kappa);
      const auto [r, c] = polar(here(p.m), 0);
      EXPECT_LE(distance(r, p.r), 1e-15 * (10 + kappa)) << "n " << n << ", kappa " << kappa;
      const PolarCertificate seen = certificate(c);
      EXPECT_LE(seen.orthogonality, 1e-13);
      EXPECT_LE(seen.skew, 1e-12);
      EXPECT_TRUE(seen.cholesky);
      EXPECT_LE(seen.gap_bound, 1e-10);
      EXPECT_FALSE(seen.fallback);
      EXPECT_FALSE(seen.zero_matrix || seen.rank_deficient);
      if (n > 1) {
        EXPECT_GT(seen.kappa, 0.4 * kappa);
        EXPECT_LT(seen.kappa, 2.5 * kappa);
      }
    }
  }
}

TEST_P(Polar, Fp32InputIsSolvedInFp64) {
  at::manual_seed(2);
  const Tensor m =
      planted(96, 1e4).m.to(at::kFloat);  // rounding the data moves its polar factor: the truth is that of the rounded
  const auto [r, c] = polar(here(m), 0);
  ASSERT_EQ(r.scalar_type(), at::kFloat);
  ASSERT_EQ(c.scalar_type(), at::kDouble);
  const auto [u, s, vh] = at::linalg_svd(m.to(at::kDouble));
  const auto [u32, s32, vh32] = at::linalg_svd(m);
  test::expect_as_accurate(r.cpu(), at::mm(u32, vh32), at::mm(u, vh));
}

TEST_P(Polar, AnchorAddsItsShareOfTheMeanDiagonal) {
  at::manual_seed(3);
  const Tensor m = planted(40, 1e3).m;
  const double mu = 0.1 * m.diagonal().abs().mean().item<double>();
  const auto [anchored, c] = polar(here(m), 0.1);
  const auto [by_hand, c2] = polar(here(m + mu * at::eye(40, at::kDouble)), 0);
  EXPECT_LE(distance(anchored, by_hand), 1e-12);
  const auto [far, c3] = polar(here(m), 1e12);
  EXPECT_LE(distance(far, at::eye(40, at::kDouble)), 1e-11);
}

TEST_P(Polar, KeepsTheSignOfTheDeterminant) {
  at::manual_seed(4);
  Tensor m = planted(17, 100).m;
  if (at::linalg_det(m).item<double>() > 0)
    m = m.clone().mul_(at::ones({17}, at::kDouble).index_fill_(0, at::tensor({0}, at::kLong), -1));
  const auto [r, c] = polar(here(m), 0);
  EXPECT_NEAR(at::linalg_det(r.cpu()).item<double>(), -1, 1e-10);
  EXPECT_TRUE(certificate(c).cholesky);
}

TEST_P(Polar, RankDeficientIsCompletedNearestToTheIdentity) {
  at::manual_seed(5);
  const int64_t n = 24, rank = 15;
  const Tensor rotation = random_orthogonal(n), basis = random_orthogonal(n).narrow(1, 0, rank);
  const Tensor m = at::mm(at::mm(basis, basis.t()), rotation);  // the projector, turned
  const auto [r, c] = polar(here(m), 0);
  const PolarCertificate seen = certificate(c);
  EXPECT_TRUE(seen.rank_deficient);
  EXPECT_LE(seen.orthogonality, 1e-13);
  EXPECT_TRUE(seen.cholesky);
  EXPECT_LE(seen.gap_bound, 1e-10);
  EXPECT_EQ(seen.fallback, on_cuda());
  // among r = (given part) + U2 Q V2^T none is nearer to I than Q = polar(U2^T V2): compare with 50 other Q
  const auto [u, s, vh] = at::linalg_svd(m);
  const Tensor fixed = at::mm(u.narrow(1, 0, rank), vh.narrow(0, 0, rank));
  const Tensor identity = at::eye(n, at::kDouble);
  EXPECT_LE(distance(at::mm(at::mm(r.cpu(), vh.narrow(0, 0, rank).t()), vh.narrow(0, 0, rank)), fixed), 1e-12);
  for (int i = 0; i < 50; ++i) {
    const Tensor q = random_orthogonal(n - rank);
    const Tensor other = fixed + at::mm(at::mm(u.narrow(1, rank, n - rank), q), vh.narrow(0, rank, n - rank));
    EXPECT_LT(distance(r, identity), distance(other, identity));
  }
}

TEST_P(Polar, SymmetricRankDeficientIsTheIdentityOnItsNullSpace) {
  at::manual_seed(6);
  const Tensor w = at::randn({7, 20}, at::kDouble);  // fewer rows than columns: W^T W has rank 7
  const auto [r, c] = polar(here(at::mm(w.t(), w)), 0);
  EXPECT_LE(distance(r, at::eye(20, at::kDouble)), 1e-12);
}

TEST_P(Polar, ZeroMatrixGivesTheIdentityAndAFlag) {
  for (const double anchor : {0.0, 0.1}) {
    const auto [r, c] = polar(here(at::zeros({5, 5}, at::kDouble)), anchor);
    EXPECT_TRUE(at::equal(r.cpu(), at::eye(5, at::kDouble)));
    const PolarCertificate seen = certificate(c);
    EXPECT_TRUE(seen.zero_matrix);
    EXPECT_EQ(seen.gap_bound, 0);
    EXPECT_TRUE(std::isnan(seen.kappa));
  }
}

TEST_P(Polar, OneByOneIsASign) {
  const auto [r, c] = polar(here(at::tensor({-3.0, 1e-300, 7e200}, at::kDouble).view({3, 1, 1})), 0);
  // An iteration ends within rounding of the sign, an SVD on it.
  EXPECT_LE(distance(r.flatten(), at::tensor({-1.0, 1.0, 1.0}, at::kDouble)), 4 * 0x1p-52) << r;
}

TEST_P(Polar, ScaleDoesNotMatter) {
  at::manual_seed(7);
  const Planted p = planted(20, 50);
  for (const double scale : {1e-290, 1e-30, 1e30, 1e290}) {
    const auto [r, c] = polar(here(p.m * scale), 0.0);
    EXPECT_LE(distance(r, p.r), 1e-13) << scale;
    EXPECT_LE(certificate(c).skew, 1e-12) << scale;
  }
}

TEST_P(Polar, BatchesStridesAndEmptyBatches) {
  at::manual_seed(8);
  std::vector<Tensor> ms;
  for (int i = 0; i < 6; ++i) ms.push_back(planted(12, std::pow(10.0, i + 1)).m);
  const Tensor batch = here(at::stack(ms).view({2, 3, 12, 12}));
  const auto [r, c] = polar(batch, 0.01);
  ASSERT_EQ(r.sizes(), batch.sizes());
  ASSERT_EQ(c.sizes(), (std::vector<int64_t>{2, 3, kPolarColumns}));
  for (int i = 0; i < 6; ++i) {  // alone as in company: nothing leaks between matrices, and each stops by itself
    const auto [alone, c1] = polar(here(ms[i]), 0.01);
    EXPECT_LE(distance(r[i / 3][i % 3], alone), 1e-9);
    EXPECT_EQ(c[i / 3][i % 3][kPolarIterations].item<double>(), c1[kPolarIterations].item<double>());
  }
  // polar(m^T) = polar(m)^T, from a transposed view and from every second matrix
  const auto [rt, ct] = polar(batch.mT(), 0.01);
  EXPECT_LE(test::max_abs_difference(rt.mT().cpu(), r.cpu()), 1e-9);
  const auto [rs, cs] = polar(batch.slice(1, 0, 3, 2), 0.01);
  EXPECT_LE(test::max_abs_difference(rs.cpu(), r.slice(1, 0, 3, 2).cpu()), 1e-9);
  const auto [none, cn] = polar(here(at::empty({3, 0, 4, 4}, at::kFloat)), 0.5);
  EXPECT_EQ(none.sizes(), (std::vector<int64_t>{3, 0, 4, 4}));
  EXPECT_EQ(cn.sizes(), (std::vector<int64_t>{3, 0, kPolarColumns}));
}

TEST_P(Polar, OddSizesAboveTheBatchLimit) {
  at::manual_seed(9);
  const Planted a = planted(301, 1e3), b = planted(301, 1e5);
  const auto [r, c] = polar(here(at::stack({a.m, b.m})), 0);
  EXPECT_LE(distance(r[0], a.r), 1e-12);
  EXPECT_LE(distance(r[1], b.r), 1e-10);
  EXPECT_LE(c.select(1, kPolarGapBound).max().item<double>(), 1e-9);
}

TEST_P(Polar, TwoRunsAreBitEqual) {
  at::manual_seed(10);
  const Tensor m = here(at::randn({3, 65, 65}, at::kDouble));
  const auto [r, c] = polar(m, 0.01);
  const auto [r2, c2] = polar(m, 0.01);
  EXPECT_TRUE(same_bytes(r, r2));
  EXPECT_TRUE(same_bytes(c, c2));
}

TEST_P(Polar, ErrorsNameArgumentRuleAndValue) {
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  Tensor bad = here(at::ones({2, 3, 4, 4}, at::kDouble));
  bad[1][2][3][0] = NAN;
  expect("polar: m must be finite, got NaN or Inf in matrix (1, 2)", QKR_MESSAGE_OF(polar(bad, 0)));
  bad = here(at::ones({3, 4, 4}));
  bad[1][0][0] = INFINITY;
  expect("polar: m must be finite, got NaN or Inf in matrix 1", QKR_MESSAGE_OF(polar(bad, 0)));
  expect("polar: m must hold square matrices [..., n, n], n > 0, got [2, 3]",
         QKR_MESSAGE_OF(polar(here(at::ones({2, 3})), 0)));
  expect("polar: m must have at least 2 dimensions, got 1", QKR_MESSAGE_OF(polar(here(at::ones({2})), 0)));
  expect("polar: m must be Float or Double, got BFloat16",
         QKR_MESSAGE_OF(polar(here(at::ones({2, 2}).to(at::kBFloat16)), 0)));
  expect("polar: anchor must be finite and at least 0, got -1", QKR_MESSAGE_OF(polar(here(at::ones({2, 2})), -1)));
  expect("polar: m must not require grad", QKR_MESSAGE_OF(polar(here(at::ones({2, 2})).requires_grad_(true), 0)));
  at::NoGradGuard no_grad;
  EXPECT_EQ(QKR_MESSAGE_OF(polar(here(at::ones({2, 2})).requires_grad_(true), 0)), "");
}

TEST_P(Polar, MetaHasTheShapesAndDtypes) {
  const auto [r, c] = polar(here(at::randn({2, 3, 3})), 0.1);
  const auto [rm, cm] = polar(at::empty({2, 3, 3}, at::TensorOptions(at::kMeta).dtype(at::kFloat)), 0.1);
  EXPECT_EQ(r.sizes(), rm.sizes());
  EXPECT_EQ(r.scalar_type(), rm.scalar_type());
  EXPECT_EQ(r.strides(), rm.strides());
  EXPECT_EQ(c.sizes(), cm.sizes());
  EXPECT_EQ(c.scalar_type(), cm.scalar_type());
  EXPECT_TRUE(rm.is_meta() && cm.is_meta());
}

QKR_ON_EVERY_DEVICE(Polar);

// The iteration that CUDA uses is ATen code, so it is held against LAPACK here, on any device.
class PolarIteration : public test::DeviceTest {
 protected:
  PolarSolution solve(const Tensor& m, double sigma_min, int* svd_calls = nullptr) {
    const SvdOfOne svd = [this, svd_calls](const Tensor& one) {
      if (svd_calls != nullptr) ++*svd_calls;
      return on_cuda() ? at::linalg_svd(one, true, "gesvd")
                       : at::linalg_svd(one, true);  // gesvdj, the default, stops early
    };
    return polar_by_iteration(polar_problem(here(m), 0), {.sigma_min = sigma_min}, svd);
  }
};

TEST_P(PolarIteration, GramByTilesIsTheGram) {
  at::manual_seed(10);
  const Tensor x = here(at::randn({3, 48, 48}, at::kDouble));
  const Tensor want = at::bmm(x.mT(), x) - at::eye(48, x.options());
  for (const int64_t tile : {4, 12, 5}) EXPECT_LE(distance(gram_minus_identity(x, tile), want), 1e-13) << tile;
}

TEST_P(PolarIteration, ConvergesWithoutTheSvdFrom10To1e8) {
  at::manual_seed(11);
  for (double kappa = 1e1; kappa < 2e8; kappa *= 10) {
    const Planted p = planted(64, kappa);
    int svd_calls = 0;
    const PolarSolution s = solve(p.m.unsqueeze(0), 1e-8, &svd_calls);
    EXPECT_EQ(svd_calls, 0) << kappa;
    EXPECT_LE(distance(s.r[0], p.r), 1e-15 * (10 + kappa)) << kappa;
    const double steps = s.certificate[0][kPolarIterations].item<double>();
    EXPECT_GE(steps, 10);
    EXPECT_LE(steps, 30) << kappa;
  }
}

TEST_P(PolarIteration, AGoodGuessSavesStepsAndABoldOneCostsOnlySteps) {
  at::manual_seed(12);
  const Planted p = planted(64, 1e3);
  const auto steps = [&](double guess) {
    return solve(p.m.unsqueeze(0), guess).certificate[0][kPolarIterations].item<double>();
  };
  EXPECT_LT(steps(1e-4), steps(1e-8) - 5);
  EXPECT_LE(distance(solve(p.m.unsqueeze(0), 1e-1).r[0], p.r), 1e-12);
}

TEST_P(PolarIteration, OnlyTheMatrixThatFailsGoesToTheSvd) {
  at::manual_seed(13);
  const int64_t n = 20;
  const Planted good = planted(n, 1e4);
  Tensor deficient = planted(n, 10).m;
  deficient = deficient.clone();
  deficient[3].zero_();  // rank n - 1
  int svd_calls = 0;
  const PolarSolution s =
      solve(at::stack({good.m, deficient, at::zeros({n, n}, at::kDouble), good.m.t()}), 1e-8, &svd_calls);
  EXPECT_EQ(svd_calls, 2);  // the deficient matrix, and the 1 x 1 of its null space
  const std::vector<double> fallback = {0, 1, 0, 0};
  EXPECT_TRUE(at::equal(s.certificate.select(1, kPolarFallback).cpu(), at::tensor(fallback, at::kDouble)));
  EXPECT_TRUE(read_certificate(s.certificate[1]).rank_deficient);
  EXPECT_TRUE(read_certificate(s.certificate[2]).zero_matrix);
  EXPECT_LE(distance(s.r[0], good.r), 1e-11);
  EXPECT_LE(distance(s.r[3], good.r.t()), 1e-11);
  EXPECT_TRUE(at::equal(s.r[2].cpu(), at::eye(n, at::kDouble)));
  const auto [by_lapack, c] = polar(deficient, 0);
  EXPECT_LE(distance(s.r[1], by_lapack), 1e-12);
}

TEST_P(PolarIteration, EachMatrixStopsByItself) {
  at::manual_seed(14);
  const Planted easy = planted(32, 2), hard = planted(32, 1e8);
  const PolarSolution both = solve(at::stack({easy.m, hard.m}), 1e-8);
  const PolarSolution alone = solve(easy.m.unsqueeze(0), 1e-8);
  EXPECT_LT(both.certificate[0][kPolarIterations].item<double>(), both.certificate[1][kPolarIterations].item<double>());
  EXPECT_LE(distance(both.r[0], alone.r[0]), 1e-13);
}

// A wrong orthogonal matrix is orthogonal: only the rest of the certificate can tell.
TEST_P(PolarIteration, CertificateSeesAWrongOrthogonalMatrix) {
  at::manual_seed(15);
  const int64_t n = 16;
  const Planted p = planted(n, 10);
  const auto certify = [&](const Tensor& wrong) {  // an SVD that lies: u = wrong, vh = I
    const SvdOfOne lie = [&](const Tensor& m) {
      return std::make_tuple(here(wrong), at::ones({n}, m.options()), at::eye(n, m.options()));
    };
    return read_certificate(polar_by_svd(polar_problem(here(p.m.unsqueeze(0)), 0), lie).certificate[0]);
  };
  EXPECT_TRUE(certify(p.r).cholesky);
  const auto [u, s, vh] = at::linalg_svd(p.m);
  Tensor flip = at::ones({n}, at::kDouble);
  flip[n - 1] = -1;
  const PolarCertificate flipped = certify(at::mm(u * flip, vh));  // one singular direction with the wrong sign
  EXPECT_LE(flipped.orthogonality, 1e-13);
  EXPECT_LE(flipped.skew, 1e-12);
  EXPECT_FALSE(flipped.cholesky);
  EXPECT_TRUE(std::isinf(flipped.gap_bound));
  const PolarCertificate other = certify(random_orthogonal(n));
  EXPECT_LE(other.orthogonality, 1e-13);
  EXPECT_GT(other.skew, 0.1);
}

QKR_ON_EVERY_DEVICE(PolarIteration);

}  // namespace
}  // namespace qkr
