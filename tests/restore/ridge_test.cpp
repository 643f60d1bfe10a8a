// The forms of qk-pro against their definitions in fp64, their limits, and what they share with plain.
#include "trainer/restore/ridge.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/restore/support.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"
#include "trainer/restore/restore.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary
using at::Tensor;

constexpr int64_t kHeads = 4, kKv = 2, kDim = 6, kIn = 30;

Tensor randn(at::IntArrayRef shape) { return at::randn(shape, at::kDouble); }
double distance(const Tensor& a, const Tensor& b) { return (at::linalg_vector_norm(a - b) / at::linalg_vector_norm(b)).item<double>(); }

struct Weights {
  Tensor q_pre = randn({kHeads * kDim, kIn}), q_post = q_pre + 0.1 * randn({kHeads * kDim, kIn}), k = randn({kKv * kDim, kIn});
};

// Head h of q [H D, d] and the KV head that it reads.
Tensor head(const Tensor& q, int64_t h) { return q.narrow(0, h * kDim, kDim); }
Tensor kv_of(const Tensor& k, int64_t h) { return k.narrow(0, h / (kHeads / kKv) * kDim, kDim); }

class Ridge : public DeviceTest {};

// By an explicit inverse, a head at a time.
TEST_P(Ridge, IsItsFormulaByInverse) {
  at::manual_seed(31);
  const Weights w;
  const double r = 0.3;
  const auto inverse = [&](const Tensor& k) {
    const Tensor gram = k.mm(k.t()), identity = at::eye(gram.size(0), at::kDouble);
    return std::pair(gram, at::linalg_inv(gram + r * gram.trace() / gram.size(0) * identity));
  };
  const RidgeResult all = ridge_by_input(here(w.q_pre), here(w.q_post), here(w.k), 1, r);
  const auto [gram, inv] = inverse(w.k);
  EXPECT_LE(distance(all.q.cpu(), w.q_post + (w.q_pre - w.q_post).mm(w.k.t()).mm(inv).mm(w.k)), 1e-13);
  EXPECT_NEAR(all.lambda.item<double>(), (r * gram.trace() / gram.size(0)).item<double>(), 1e-12);
  const RidgeResult heads = ridge_by_input(here(w.q_pre), here(w.q_post), here(w.k), kKv, r);
  const RidgeResult bilinear = ridge_by_head(here(w.q_pre), here(w.q_post), here(w.k), kKv, r);
  for (int64_t h = 0; h < kHeads; ++h) {
    const Tensor k = kv_of(w.k, h), change = head(w.q_pre, h) - head(w.q_post, h);
    const auto [g, i] = inverse(k);
    EXPECT_LE(distance(head(heads.q.cpu(), h), head(w.q_post, h) + change.mm(k.t()).mm(i).mm(k)), 1e-13) << h;
    EXPECT_LE(distance(head(bilinear.q.cpu(), h), head(w.q_post, h) + g.mm(i).mm(change)), 1e-13) << h;
  }
}

TEST_P(Ridge, LimitsOfTheRidge) {
  at::manual_seed(32);
  const Weights w;
  const Tensor q_pre = here(w.q_pre), q_post = here(w.q_post), k = here(w.k);
  EXPECT_TRUE(same_bytes(ridge_by_head(q_pre, q_post, k, kKv, 0).q, w.q_pre));  // plain
  EXPECT_LE(distance(ridge_by_head(q_pre, q_post, k, kKv, 1e-9).q, q_pre), 1e-7);
  for (const int64_t groups : {int64_t{1}, kKv}) EXPECT_LE(distance(ridge_by_input(q_pre, q_post, k, groups, 1e14).q, q_post), 1e-13);
  EXPECT_LE(distance(ridge_by_head(q_pre, q_post, k, kKv, 1e14).q, q_post), 1e-13);  // K alone
  // ridge 0 on the input side: Q_pre in what K reads, Q_post in what it does not
  const Tensor got = ridge_by_input(q_pre, q_post, k, 1, 0).q;
  EXPECT_LE(distance(got.mm(k.t()), q_pre.mm(k.t())), 1e-13);
  const Tensor blind = randn({kIn, 4});
  const Tensor unseen = (blind - at::matmul(at::linalg_pinv(w.k), w.k.mm(blind))).to(device());
  EXPECT_LE(distance(got.mm(unseen), q_post.mm(unseen)), 1e-13);
  EXPECT_GT(distance(got, q_pre), 0.01);
  EXPECT_LE(distance(ridge_by_input(q_pre, got, k, 1, 0).q, got), 1e-13);  // idempotent
}

TEST_P(Ridge, WhatDidNotMoveKeepsItsBytesAndAnEmptyKSeesNothing) {
  at::manual_seed(33);
  Weights w;
  w.q_pre[0][0] = -0.0;
  const Tensor q = here(w.q_pre), post = here(w.q_post), k = here(w.k), none = at::zeros_like(k);
  for (const int64_t groups : {int64_t{1}, kKv}) {
    EXPECT_TRUE(same_bytes(ridge_by_input(q, q, k, groups, 1e-6).q, w.q_pre));
    EXPECT_TRUE(same_bytes(ridge_by_input(q, post, none, groups, 1e-6).q, w.q_post));
  }
  EXPECT_TRUE(same_bytes(ridge_by_head(q, q, k, kKv, 0.1).q, w.q_pre));
  EXPECT_LE(distance(ridge_by_head(q, post, none, kKv, 0.1).q, post), 1e-15);
}

TEST_P(Ridge, ASingularGramMatrixNeedsARidge) {
  at::manual_seed(34);
  Weights w;
  w.k.narrow(0, 0, kDim).zero_();  // a dead KV head
  const Tensor q = here(w.q_pre), post = here(w.q_post), k = here(w.k);
  const std::string message = QKR_MESSAGE_OF(ridge_by_input(q, post, k, 1, 0));
  EXPECT_EQ(message, "restore: K K^T + lambda I must be positive definite, got a matrix without a Cholesky factor at qk_restore.ridge 0; "
                     "a larger ridge helps");
  EXPECT_EQ(QKR_MESSAGE_OF(ridge_by_input(q, post, k, 1, 1e-6)), "");
}

RestoreConfigSection section(const std::string& method, std::optional<double> ridge = std::nullopt) {
  RestoreConfigSection s;
  s.method = method;
  s.ridge = ridge;
  s.layers.word = "all";
  return s;
}

class QkPro : public DeviceTest {};

TEST_P(QkPro, WritesKAsItWasAndQCorrected) {
  at::manual_seed(35);
  const Scene s = scene(at::kFloat, device(), all_layers());
  for (const std::string method : {"qk-pro", "qk-pro-head", "qk-pro-bilinear"}) {
    NamedTensors weights = clone(s.post);
    const RestoreReport report = restore(weights, s.snapshot, section(method));
    EXPECT_EQ(report.ridge, method == "qk-pro-bilinear" ? 0.1 : 1e-6);
    for (int64_t layer = 0; layer < 3; ++layer) {
      const RoutingTensors names = layer_names(layer);
      EXPECT_TRUE(same_bytes(weights.at(names.k_weight), s.pre.at(names.k_weight)));
      EXPECT_TRUE(same_bytes(weights.at(names.k_bias), s.pre.at(names.k_bias)));
      EXPECT_EQ(same_bytes(weights.at(names.q_bias), s.pre.at(names.q_bias)), method != "qk-pro-bilinear");
      EXPECT_TRUE(same_bytes(weights.at(names.q_norm), s.post.at(names.q_norm)));
      const Tensor q = weights.at(names.q_weight), pre = s.pre.at(names.q_weight), post = s.post.at(names.q_weight);
      EXPECT_LT(distance(q, pre), distance(post, pre)) << method << layer;
      EXPECT_FALSE(same_bytes(q, post));
      if (method != "qk-pro-bilinear") {
        EXPECT_NEAR(*report.layers[layer].corrected, (at::linalg_vector_norm(q - post) / at::linalg_vector_norm(pre - post)).item<double>(), 1e-5);
      }
    }
    const nlohmann::json json = to_json(report);
    EXPECT_EQ(json.at("ridge"), *report.ridge);
    for (const char* key : {"lambda_min", "lambda_max", "corrected"}) EXPECT_TRUE(json.at("layers")[0].at(key).is_number()) << key;
  }
}

// The bias is one more column of the block: ridge 0 is plain with it, a large ridge leaves it tuned.
TEST_P(QkPro, BilinearGoesFromPlainToKAloneBiasesIncluded) {
  at::manual_seed(36);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const Scene s = scene(dtype, device(), all_layers());
    NamedTensors zero = clone(s.post), plain = clone(s.post), far = clone(s.post), key = clone(s.post);
    restore(zero, s.snapshot, section("qk-pro-bilinear", 0));
    restore(plain, s.snapshot, section("plain"));
    restore(far, s.snapshot, section("qk-pro-bilinear", 1e14));
    restore(key, s.snapshot, section("k"));
    for (const auto& [name, tensor] : s.post) {
      EXPECT_TRUE(same_bytes(zero.at(name), plain.at(name))) << name;
      EXPECT_TRUE(same_bytes(far.at(name), key.at(name))) << name;
    }
  }
}

TEST_P(QkPro, ANeverTunedModelIsAFixedPointBitForBit) {
  at::manual_seed(37);
  NamedTensors weights = random_weights(at::kBFloat16, device());
  const NamedTensors pre = clone(weights);
  const Snapshot snapshot = take_snapshot(weights, all_layers());
  for (const std::string method : {"qk-pro", "qk-pro-head", "qk-pro-bilinear"}) {
    const RestoreReport report = restore(weights, snapshot, section(method));
    for (const auto& [name, tensor] : pre) EXPECT_TRUE(same_bytes(weights.at(name), tensor)) << method << " " << name;
    EXPECT_EQ(report.layers[0].corrected, 0);
  }
}

TEST_P(QkPro, RefusesOtherPartsAndWhatIsNotFinite) {
  at::manual_seed(38);
  const Scene s = scene(at::kFloat, device(), all_layers());
  NamedTensors weights = clone(s.post);
  RestoreConfigSection config = section("qk-pro");
  config.parts = "v";
  EXPECT_EQ(QKR_MESSAGE_OF(restore(weights, s.snapshot, config)), "qk_restore.parts must be qk where the method is qk-pro, got v");
  weights.set(layer_names(2).q_weight, at::full({kQueryRows, kHidden}, NAN).to(device()));
  EXPECT_EQ(QKR_MESSAGE_OF(restore(weights, s.snapshot, section("qk-pro"))),
            "restore: tensor " + layer_names(2).q_weight + " must be finite after the fine-tuning, got NaN or Inf");
}

QKR_ON_EVERY_DEVICE(Ridge);
QKR_ON_EVERY_DEVICE(QkPro);

}  // namespace
}  // namespace qkr
