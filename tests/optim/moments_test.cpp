// What becomes of Adam's moments where a restore overwrites a weight.
#include "trainer/optim/moments.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/device.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary
using at::Tensor;

class Moments : public DeviceTest {
 protected:
  // Moments of two weights [5, 8] as 30 steps of random gradients leave them.
  NamedTensors state() const {
    NamedTensors all;
    for (const char* name : {"a", "b"}) {
      Tensor m = at::zeros({5, 8}), v = at::zeros({5, 8});
      for (int step = 0; step < 30; ++step) {
        const Tensor g = at::randn({5, 8}) + 0.5;
        m = 0.9 * m + 0.1 * g;
        v = 0.95 * v + 0.05 * g.square();
      }
      all.set(std::string("exp_avg.") + name, here(m));
      all.set(std::string("exp_avg_sq.") + name, here(v));
    }
    return all;
  }
  Tensor rotation() const { return here(std::get<0>(at::linalg_qr(at::randn({8, 8}, at::kDouble)))); }
};

TEST_P(Moments, ResetTakesTheNamedOnesAlone) {
  at::manual_seed(1);
  const NamedTensors all = state();
  const Tensor kept = all.at("exp_avg_sq.b").clone();
  reset_moments(all, {"a", "frozen"});
  for (const char* name : {"exp_avg.a", "exp_avg_sq.a"}) EXPECT_EQ(all.at(name).count_nonzero().item<int64_t>(), 0) << name;
  EXPECT_TRUE(same_bytes(all.at("exp_avg_sq.b"), kept));
}

TEST_P(Moments, TheMeanTurnsExactlyAndTheVarianceAsIfUncorrelated) {
  at::manual_seed(2);
  const NamedTensors all = state();
  const Tensor m = all.at("exp_avg.a").to(at::kDouble), v = all.at("exp_avg_sq.a").to(at::kDouble), r = rotation();
  ASSERT_TRUE((v >= m.square()).all().item<bool>());
  rotate_moments(all, "a", r);
  const Tensor mean = at::mm(m, r);
  EXPECT_TRUE(same_bytes(all.at("exp_avg.a"), mean.to(at::kFloat)));
  Tensor want = mean.square();
  for (int64_t k = 0; k < 8; ++k) {  // sum_k var_k r_kj^2, written out
    want += (v - m.square()).select(1, k).unsqueeze(1) * r.select(0, k).square().unsqueeze(0);
  }
  EXPECT_LE(max_abs_difference(all.at("exp_avg_sq.a"), want), 1e-6);
  EXPECT_LE(max_abs_difference(all.at("exp_avg_sq.a").to(at::kDouble).sum(1), v.sum(1)), 1e-5) << "a row's sum does not change";
}

TEST_P(Moments, TheIdentityLeavesThem) {
  at::manual_seed(3);
  const NamedTensors all = state();
  const Tensor m = all.at("exp_avg.a").clone(), v = all.at("exp_avg_sq.a").clone();
  rotate_moments(all, "a", at::eye(8, rotation().options()));
  EXPECT_TRUE(same_bytes(all.at("exp_avg.a"), m));
  EXPECT_LE(max_abs_difference(all.at("exp_avg_sq.a"), v), 1e-7);
}

// A mean that turns into one coordinate must find its square there: |m| / sqrt(v) <= 1, so that no update exceeds lr.
TEST_P(Moments, NoMeanOutgrowsItsSquare) {
  at::manual_seed(4);
  NamedTensors all;
  all.set("exp_avg.a", here(at::ones({1, 8})));
  all.set("exp_avg_sq.a", here(at::ones({1, 8})));
  Tensor r = rotation();
  const Tensor ones = at::ones({8, 1}, r.options()) / std::sqrt(8.0);
  r = at::eye(8, r.options());  // a reflection that takes (1, ..., 1) / sqrt(8) to the first axis
  const Tensor axis = at::eye(8, r.options()).narrow(1, 0, 1) - ones;
  r = r - 2 * axis.mm(axis.t()) / axis.square().sum();
  rotate_moments(all, "a", r);
  EXPECT_NEAR(all.at("exp_avg.a")[0][0].item<double>(), std::sqrt(8.0), 1e-6);
  EXPECT_NEAR(all.at("exp_avg_sq.a")[0][0].item<double>(), 8.0, 1e-5);
  for (int round = 0; round < 20; ++round) {
    const NamedTensors random = state();
    Tensor(random.at("exp_avg_sq.a")).mul_(0.3);  // below the mean's square in places
    rotate_moments(random, "a", rotation());
    const Tensor m = random.at("exp_avg.a"), v = random.at("exp_avg_sq.a");
    EXPECT_TRUE((v >= 0).all().item<bool>());
    EXPECT_TRUE((m.abs() <= v.sqrt() * (1 + 1e-6)).all().item<bool>()) << round;
  }
}

TEST_P(Moments, WeightsWithoutMomentsArePassedOver) {
  at::manual_seed(5);
  const NamedTensors all = state();
  const Tensor m = all.at("exp_avg.a").clone();
  rotate_moments(all, "frozen", rotation());
  EXPECT_TRUE(same_bytes(all.at("exp_avg.a"), m));
}

QKR_ON_EVERY_DEVICE(Moments);

}  // namespace
}  // namespace qkr
