#include "ops/procrustes.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/polar.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

Tensor random_orthogonal(int64_t n) { return std::get<0>(at::linalg_qr(at::randn({n, n}, at::kDouble))); }

struct Pair {
  Tensor pre, post;  // [rows, d]
};

// A small rotation and some noise away from each other, as fine-tuning leaves them.
Pair tuned(int64_t rows, int64_t d, at::ScalarType dtype) {
  const Tensor pre = at::randn({rows, d}, at::kDouble).to(dtype);
  const Tensor rotation = std::get<0>(at::linalg_qr(at::eye(d, at::kDouble) + 0.02 * at::randn({d, d}, at::kDouble)));
  const Tensor sign = rotation.diagonal().sign();
  const Tensor post = at::mm(pre.to(at::kDouble), rotation * sign) + 0.01 * at::randn({rows, d}, at::kDouble);
  return {pre, post.to(dtype)};
}

Tensor svd_polar(const Tensor& m) {
  const auto [u, s, vh] = at::linalg_svd(m);
  return at::mm(u, vh);
}

class Procrustes : public test::DeviceTest {};

TEST_P(Procrustes, PlantedRotationIsRecovered) {
  at::manual_seed(1);
  for (const int64_t d : {1, 7, 64}) {
    const Tensor pre = at::randn({2 * d + 1, d}, at::kDouble), q = random_orthogonal(d);
    const auto [restored, r, c] = procrustes(here(pre), here(at::mm(pre, q)), 0);
    EXPECT_LE(test::max_abs_difference(r.cpu(), q), 1e-11) << d;
    EXPECT_LE(test::max_abs_difference(restored.cpu(), at::mm(pre, q)), 1e-10) << d;
  }
}

TEST_P(Procrustes, AsAccurateAsThePlainCompositeInEveryDtype) {
  at::manual_seed(2);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kFloat}) {
    for (const double anchor : {0.0, 1e-2}) {
      const Pair w = tuned(80, 31, dtype);
      const auto [restored, r, c] = procrustes(here(w.pre), here(w.post), anchor);
      ASSERT_EQ(r.scalar_type(), at::kDouble);
      // truth in fp64; the plain composite in fp32 (LAPACK has no 16-bit SVD), rounded to the dtype
      const auto composite = [&](at::ScalarType work) {
        const Tensor pre = w.pre.to(work), m = at::mm(pre.t(), w.post.to(work));
        return at::mm(pre, svd_polar(m + anchor * m.diagonal().abs().mean() * at::eye(31, work)));
      };
      test::expect_as_accurate(restored.cpu(), composite(at::kFloat).to(dtype), composite(at::kDouble));
    }
  }
}

TEST_P(Procrustes, FixedPointAndLimits) {
  at::manual_seed(3);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kDouble}) {
    const Pair w = tuned(96, 48, dtype);
    const double eps = test::ulp_at_one(dtype);
    const Tensor identity = at::eye(48, at::kDouble);
    // the same tensor twice: R = I up to eps of fp64 times the condition number
    const auto [same, r0, c0] = procrustes(here(w.pre), here(w.pre), 0);
    EXPECT_LE(test::max_abs_difference(r0.cpu(), identity), 1e-12);
    EXPECT_LE(test::max_abs_difference(same.cpu(), w.pre), dtype == at::kDouble ? 1e-11 : eps * 1e-3);
    // a large anchor is a plain copy
    const auto [plain, r1, c1] = procrustes(here(w.pre), here(w.post), 1e12);
    EXPECT_LE(test::max_abs_difference(r1.cpu(), identity), 1e-11);
    EXPECT_LE(test::max_abs_difference(plain.cpu(), w.pre), dtype == at::kDouble ? 1e-10 : eps * 1e-3);
  }
}

TEST_P(Procrustes, ObjectiveIsNeverAboveThatOfTheIdentityNorOfNeighbours) {
  at::manual_seed(4);
  for (const double anchor : {0.0, 0.01, 1.0}) {
    const Pair w = tuned(70, 30, at::kDouble);
    const auto [restored, r, c] = procrustes(here(w.pre), here(w.post), anchor);
    const double mu = anchor * at::mm(w.pre.t(), w.post).diagonal().abs().mean().item<double>();
    const Tensor identity = at::eye(30, at::kDouble);
    const auto objective = [&](const Tensor& rotation) {
      return ((at::mm(w.pre, rotation) - w.post).square().sum() + mu * (rotation - identity).square().sum())
          .item<double>();
    };
    const double best = objective(r.cpu());
    EXPECT_LT(best, objective(identity));
    for (int i = 0; i < 20; ++i) {  // r turned a little more
      const Tensor a = at::randn({30, 30}, at::kDouble) * 1e-3;
      EXPECT_LT(best, objective(at::mm(r.cpu(), at::linalg_matrix_exp(a - a.t()))));
    }
  }
}

TEST_P(Procrustes, StridedInputsAndNoRows) {
  at::manual_seed(5);
  const Pair w = tuned(40, 20, at::kBFloat16);
  const auto [want, r, c] = procrustes(here(w.pre), here(w.post), 0.1);
  const auto [got, r2, c2] =
      procrustes(here(w.pre.t().contiguous()).t(), here(at::cat({w.post, w.post}, 1)).narrow(1, 0, 20), 0.1);
  EXPECT_LE(test::max_abs_difference(r.cpu(), r2.cpu()), 1e-12);
  EXPECT_TRUE(same_bytes(want, got));
  EXPECT_TRUE(got.is_contiguous());
  const auto [none, r3, c3] = procrustes(here(at::empty({0, 20})), here(at::empty({0, 20})), 0.1);
  EXPECT_EQ(none.sizes(), (std::vector<int64_t>{0, 20}));
  EXPECT_TRUE(at::equal(r3.cpu(), at::eye(20, at::kDouble)));
  EXPECT_TRUE(read_certificate(c3).zero_matrix);
}

TEST_P(Procrustes, TwoRunsAreBitEqual) {
  at::manual_seed(6);
  const Pair w = tuned(90, 45, at::kBFloat16);
  const auto [a, r, c] = procrustes(here(w.pre), here(w.post), 0);
  const auto [b, r2, c2] = procrustes(here(w.pre), here(w.post), 0);
  EXPECT_TRUE(same_bytes(a, b));
  EXPECT_TRUE(same_bytes(r, r2));
  EXPECT_TRUE(same_bytes(c, c2));
}

TEST_P(Procrustes, MetaHasTheShapesAndDtypes) {
  const Pair w = tuned(9, 5, at::kHalf);
  const auto [restored, r, c] = procrustes(here(w.pre), here(w.post), 0.1);
  const auto [mw, mr, mc] = procrustes(w.pre.to(at::kMeta), w.post.to(at::kMeta), 0.1);
  for (const auto& [real, meta] : {std::pair{restored, mw}, {r, mr}, {c, mc}}) {
    EXPECT_TRUE(meta.is_meta());
    EXPECT_EQ(real.sizes(), meta.sizes());
    EXPECT_EQ(real.strides(), meta.strides());
    EXPECT_EQ(real.scalar_type(), meta.scalar_type());
  }
}

TEST_P(Procrustes, ErrorsNameArgumentRuleAndValue) {
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  const Tensor w = here(at::ones({4, 2}));
  expect("procrustes: w_post must have shape [4, 2], got [2, 2]", QKR_MESSAGE_OF(procrustes(w, w.narrow(0, 0, 2), 0)));
  expect("procrustes: w_post must be Float, got Double", QKR_MESSAGE_OF(procrustes(w, w.to(at::kDouble), 0)));
  expect("procrustes: w_pre must be a matrix [rows, d], d > 0, got [4]",
         QKR_MESSAGE_OF(procrustes(w[0].repeat(2), w, 0)));
  expect("procrustes: anchor must be finite and at least 0, got inf", QKR_MESSAGE_OF(procrustes(w, w, INFINITY)));
  expect("procrustes: w_post must not require grad", QKR_MESSAGE_OF(procrustes(w, w.clone().requires_grad_(true), 0)));
  expect("polar: m must be finite, got NaN or Inf in matrix", QKR_MESSAGE_OF(procrustes(w, w * NAN, 0)));
}

TEST_P(Procrustes, RoundsOnceToNearestEven) {
  // a hair above, on, and below the middle of two bf16 numbers; fp32 cannot tell the first and the last from a tie
  const double middle = 1 + 0x1p-8, hair = 0x1p-40, next = 1 + 0x1p-7;
  const Tensor x = here(
      at::tensor({middle + hair, middle, middle - hair, -middle - hair, next + 0x1p-8 - hair, 1e300, 0.0, -0.0, NAN},
                 at::kDouble));
  const std::vector<double> want = {next, 1, 1, -next, next, INFINITY, 0.0, -0.0};
  const Tensor got = round_once(x, at::kBFloat16).cpu();
  EXPECT_TRUE(same_bytes(got.narrow(0, 0, 8), at::tensor(want, at::kDouble).to(at::kBFloat16))) << got;
  EXPECT_TRUE(got[8].isnan().item<bool>());
  EXPECT_TRUE(same_bytes(round_once(x, at::kFloat).narrow(0, 0, 8), x.to(at::kFloat).narrow(0, 0, 8)));
}

QKR_ON_EVERY_DEVICE(Procrustes);

}  // namespace
}  // namespace qkr
