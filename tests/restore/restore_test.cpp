#include "trainer/restore/restore.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <set>

#include "tests/restore/support.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary
using at::Tensor;

RestoreConfigSection section(const std::string& method, double anchor = 1e-2) {
  RestoreConfigSection s;
  s.method = method;
  s.anchor = anchor;
  return s;
}

Tensor stacked(const NamedTensors& weights, const RoutingTensors& layer) {
  return at::cat({weights.at(layer.q_weight), weights.at(layer.k_weight)}).cpu();
}

std::set<std::string> changed(const NamedTensors& a, const NamedTensors& b) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : a) {
    if (!same_bytes(tensor, b.at(name))) names.insert(name);
  }
  return names;
}

std::set<std::string> written(const RestoreReport& report) {
  std::set<std::string> names;
  for (const LayerReport& layer : report.layers) names.insert(layer.written.begin(), layer.written.end());
  return names;
}

class Restore : public DeviceTest {};

TEST_P(Restore, PlainGivesBackTheBytesOfQKAndBiasesAlone) {
  at::manual_seed(1);
  const Scene s = scene(at::kBFloat16, device(), softmax_layers());
  NamedTensors weights = clone(s.post);
  const Tensor live = weights.at(layer_names(0).q_weight);
  const RestoreReport report = restore(weights, s.snapshot, section("plain"));
  const std::set<std::string> want = {
      layer_names(0).q_weight, layer_names(0).k_weight, layer_names(0).q_bias, layer_names(0).k_bias,
      layer_names(2).q_weight, layer_names(2).k_weight, layer_names(2).q_bias, layer_names(2).k_bias,
  };
  EXPECT_EQ(changed(weights, s.post), want);  // Lightning's q_proj, V, gains and embeddings keep their bytes
  EXPECT_EQ(written(report), want);
  for (const std::string& name : want) EXPECT_TRUE(same_bytes(weights.at(name), s.pre.at(name))) << name;
  EXPECT_TRUE(same_bytes(live, s.pre.at(layer_names(0).q_weight))) << "the live tensor is written, not replaced";

  const NamedTensors once = clone(weights);
  const RestoreReport again = restore(weights, s.snapshot, section("plain"));
  EXPECT_TRUE(changed(weights, once).empty());
  EXPECT_EQ(again.restored_sha256, report.restored_sha256);
  EXPECT_EQ(again.layers[0].changes.at("q"), 0);
}

TEST_P(Restore, FlagsChooseBiasesAndGains) {
  at::manual_seed(2);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  for (const std::string method : {"plain", "procrustes"}) {
    for (const bool biases : {false, true}) {
      for (const bool gains : {false, true}) {
        NamedTensors weights = clone(s.post);
        RestoreConfigSection config = section(method);
        config.biases = biases;
        config.qk_norm = gains;
        restore(weights, s.snapshot, config);
        const std::set<std::string> moved = changed(weights, s.post);
        for (const RoutingTensors& layer : softmax_names()) {
          for (const std::string& name : {layer.q_bias, layer.k_bias}) {
            EXPECT_EQ(moved.count(name), biases) << name;
            EXPECT_TRUE(same_bytes(weights.at(name), biases ? s.pre.at(name) : s.post.at(name))) << "unrotated";
          }
          for (const std::string& name : {layer.q_norm, layer.k_norm}) EXPECT_EQ(moved.count(name), gains) << name;
        }
      }
    }
  }
}

TEST_P(Restore, NoneWritesNothingAndStillMeasures) {
  at::manual_seed(3);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  NamedTensors weights = clone(s.post);
  const RestoreReport report = restore(weights, s.snapshot, section("none"));
  EXPECT_TRUE(changed(weights, s.post).empty());
  EXPECT_TRUE(written(report).empty());
  EXPECT_NEAR(report.layers[1].changes.at("q"), 0.05, 0.01);
  EXPECT_EQ(report.layers[1].residual_after, 0);
}

TEST_P(Restore, ANeverTunedModelIsAFixedPoint) {
  at::manual_seed(4);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    for (const char* method : {"plain", "procrustes", "qk-pro", "qk-pro-head", "qk-pro-bilinear", "lerp:0.5", "q", "qkv"}) {
      NamedTensors weights = random_weights(dtype, device());
      const NamedTensors pre = clone(weights);
      const Snapshot snapshot = take_snapshot(weights, all_layers());
      const RestoreReport report = restore(weights, snapshot, section(method));
      EXPECT_TRUE(changed(weights, pre).empty()) << method;
      ASSERT_EQ(report.layers.size(), 2u);
      for (const LayerReport& layer : report.layers) EXPECT_TRUE(layer.unmoved && !layer.written.empty()) << method;
      EXPECT_TRUE(to_json(report).at("layers")[0].at("unmoved").get<bool>());
    }
  }
}

// One frozen layer, one that moved: the first keeps its bytes under a rotation too, whose R is I; the second is restored as it is alone.
TEST_P(Restore, AFrozenLayerKeepsItsBytesBesideOneThatMoved) {
  at::manual_seed(13);
  Scene s = scene(at::kFloat, device(), softmax_layers());
  NamedTensors alone = clone(s.post), weights = clone(s.post);
  for (const MixerTensor& tensor : mixer_layer(0).tensors) Tensor(weights.at(tensor.name)).copy_(s.pre.at(tensor.name));
  const NamedTensors before = clone(weights);
  Rotations rotations;
  const RestoreReport report = restore(weights, s.snapshot, section("procrustes"), &rotations);
  restore(alone, s.snapshot, section("procrustes"));
  EXPECT_TRUE(report.layers[0].unmoved);
  EXPECT_FALSE(report.layers[1].unmoved);
  EXPECT_FALSE(to_json(report).at("layers")[1].contains("unmoved"));
  EXPECT_EQ(changed(weights, before), (std::set<std::string>{layer_names(2).q_weight, layer_names(2).k_weight, layer_names(2).q_bias, layer_names(2).k_bias}));
  EXPECT_TRUE(same_bytes(weights.at(layer_names(2).q_weight), alone.at(layer_names(2).q_weight)));
  EXPECT_TRUE(at::equal(rotations.at(layer_names(0).k_weight).cpu(), at::eye(kHidden, at::kDouble)));
  EXPECT_EQ(*report.layers[0].rotation, 0);
}

// Frozen W_Q beside a W_K that moved: the forms that do not turn weights together leave it as it is.
TEST_P(Restore, AFrozenQueryWeightKeepsItsBytes) {
  at::manual_seed(14);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  for (const char* method : {"plain", "lerp:0.5", "qk-pro", "qk-pro-head", "qk-pro-bilinear"}) {
    NamedTensors weights = clone(s.post);
    for (const std::string& name : {layer_names(0).q_weight, layer_names(0).q_bias}) Tensor(weights.at(name)).copy_(s.pre.at(name));
    restore(weights, s.snapshot, section(method));
    for (const std::string& name : {layer_names(0).q_weight, layer_names(0).q_bias}) EXPECT_TRUE(same_bytes(weights.at(name), s.pre.at(name))) << method << name;
    EXPECT_FALSE(same_bytes(weights.at(layer_names(0).k_weight), s.post.at(layer_names(0).k_weight))) << method;
  }
}

TEST_P(Restore, PlantedRotationIsRecoveredWithoutAnAnchor) {
  at::manual_seed(5);
  const NamedTensors pre = random_weights(at::kDouble, device());
  const Snapshot snapshot = take_snapshot(pre, softmax_layers());
  NamedTensors weights = clone(pre);
  for (const RoutingTensors& layer : softmax_names()) {
    const Tensor q = std::get<0>(at::linalg_qr(at::randn({kHidden, kHidden}, at::kDouble))).to(device());
    for (const std::string& name : {layer.q_weight, layer.k_weight}) weights.set(name, at::mm(pre.at(name), q));
  }
  const NamedTensors post = clone(weights);
  const RestoreReport report = restore(weights, snapshot, section("procrustes", 0));
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const RoutingTensors layer = softmax_names()[i];
    EXPECT_LE(max_abs_difference(stacked(weights, layer), stacked(post, layer)), 1e-10);
    EXPECT_GT(report.layers[i].residual_before, 0.5);
    EXPECT_LE(report.layers[i].residual_after, 1e-11);
    EXPECT_GT(*report.layers[i].rotation, 0.5);
    EXPECT_EQ(report.layers[i].mu, 0);
  }
}

TEST_P(Restore, AFarAnchorIsPlain) {
  at::manual_seed(6);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const Scene s = scene(dtype, device(), softmax_layers());
    NamedTensors weights = clone(s.post);
    restore(weights, s.snapshot, section("procrustes", 1e12));
    for (const RoutingTensors& layer : softmax_names()) {
      EXPECT_LE(max_abs_difference(stacked(weights, layer), stacked(s.pre, layer)), ulp_at_one(dtype) * 1e-3);
    }
  }
}

// One R a layer: q and k of the result are q_pre R and k_pre R with the same R, written out here in fp64.
TEST_P(Restore, QAndKShareOneRotationWithTheAnchorOfTheLayer) {
  at::manual_seed(7);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  NamedTensors weights = clone(s.post);
  const double anchor = 0.1;
  const RestoreReport report = restore(weights, s.snapshot, section("procrustes", anchor));
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const RoutingTensors layer = softmax_names()[i];
    const Tensor pre = stacked(s.pre, layer).to(at::kDouble), post = stacked(s.post, layer).to(at::kDouble);
    const Tensor m = at::mm(pre.t(), post), identity = at::eye(kHidden, at::kDouble);
    const double mu = anchor * m.diagonal().abs().mean().item<double>();
    const auto [u, sigma, vh] = at::linalg_svd(m + mu * identity);
    const Tensor r = at::mm(u, vh), want = at::mm(pre, r);
    const auto relative = [](const Tensor& a, const Tensor& b) {
      return (at::linalg_vector_norm(a) / at::linalg_vector_norm(b)).item<double>();
    };
    const Tensor got = stacked(weights, layer);
    EXPECT_LE(max_abs_difference(got, want), 1e-6);
    expect_as_accurate(got, want.to(at::kFloat), want);
    const LayerReport& row = report.layers[i];
    EXPECT_EQ(row.layer, i == 0 ? 0 : 2);
    EXPECT_NEAR(*row.mu, mu, 1e-9 * mu);
    EXPECT_NEAR(*row.rotation, at::linalg_vector_norm(r - identity).item<double>() / std::sqrt(kHidden), 1e-10);
    EXPECT_NEAR(row.residual_before, relative(pre - post, post), 1e-12);
    EXPECT_NEAR(row.residual_after, relative(want - post, post), 1e-6);
    EXPECT_LT(row.residual_after, row.residual_before);
    const Tensor q_pre = pre.narrow(0, 0, kQueryRows), k_pre = pre.narrow(0, kQueryRows, kKeyRows);
    EXPECT_NEAR(row.changes.at("q"), relative(post.narrow(0, 0, kQueryRows) - q_pre, q_pre), 1e-12);
    EXPECT_NEAR(row.changes.at("k"), relative(post.narrow(0, kQueryRows, kKeyRows) - k_pre, k_pre), 1e-12);
    ASSERT_TRUE(row.certificate.has_value());
    EXPECT_TRUE(row.certificate->cholesky);
    EXPECT_LE(row.certificate->gap_bound, 1e-10);
  }
}

TEST_P(Restore, RefusesBeforeWritingAnything) {
  at::manual_seed(8);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  const std::string k = layer_names(2).k_weight;  // of the last layer: the first one must not have been written by then
  const auto message_with = [&](const std::string& method, const Tensor& odd) {
    NamedTensors weights = clone(s.post);
    weights.set(k, odd);
    const NamedTensors before = clone(weights);
    const std::string message = QKR_MESSAGE_OF(restore(weights, s.snapshot, section(method)));
    EXPECT_TRUE(changed(weights, before).empty()) << message;
    return message;
  };
  EXPECT_EQ(message_with("plain", at::zeros({kKeyRows, kHidden + 1})),
            "restore: tensor " + k + " must have the snapshot's shape [8, 24], got [8, 25]");
  EXPECT_EQ(message_with("plain", at::zeros({kKeyRows, kHidden}, at::kHalf)),
            "restore: tensor " + k + " must have the snapshot's dtype Float, got Half");
  EXPECT_EQ(message_with("procrustes", at::full({kKeyRows, kHidden}, NAN).to(device())),
            "restore: tensor " + k + " must be finite after the fine-tuning, got NaN or Inf");
  EXPECT_EQ(message_with("svd", s.post.at(k)), "qk_restore.method must be none, plain, procrustes, procrustes-head, qk-pro, qk-pro-head, qk-pro-bilinear, lerp:A, q, k or qkv, got svd");
  NamedTensors without;
  for (const auto& [name, tensor] : s.post) {
    if (name != k) without.set(name, tensor);
  }
  EXPECT_EQ(QKR_MESSAGE_OF(restore(without, s.snapshot, section("plain"))),
            "restore: tensor " + k + " of the snapshot is missing from the model");
}

TEST_P(Restore, LayersWithoutBiasesAndGains) {
  at::manual_seed(9);
  std::vector<MixerLayer> layers = softmax_layers();
  for (MixerLayer& layer : layers) layer.tensors = {layer.tensors[0], layer.tensors[2]};
  NamedTensors weights = random_weights(at::kBFloat16, device());
  const Snapshot snapshot = take_snapshot(weights, layers);
  EXPECT_EQ(snapshot.tensors().size(), 4u);
  tune(weights);
  RestoreConfigSection config = section("procrustes");
  config.qk_norm = true;
  EXPECT_EQ(written(restore(weights, snapshot, config)).size(), 4u);
}

TEST_P(Restore, TwoRunsAreBitEqualAndWeightsMayRequireGrad) {
  at::manual_seed(10);
  const Scene s = scene(at::kFloat, device(), softmax_layers());
  NamedTensors a = clone(s.post), b = clone(s.post);
  for (const auto& [name, tensor] : a) Tensor(tensor).requires_grad_(true);
  const RestoreReport first = restore(a, s.snapshot, section("procrustes"));
  const RestoreReport second = restore(b, s.snapshot, section("procrustes"));
  EXPECT_EQ(first.restored_sha256, second.restored_sha256);
  EXPECT_TRUE(changed(a, b).empty());
}

TEST_P(Restore, JsonHoldsTheReport) {
  at::manual_seed(11);
  const Scene s = scene(at::kBFloat16, device(), softmax_layers());
  NamedTensors weights = clone(s.post);
  const RestoreReport report = restore(weights, s.snapshot, section("procrustes", 0.25));
  const nlohmann::json json = nlohmann::json::parse(to_json(report).dump());
  EXPECT_EQ(json.at("method"), "procrustes");
  EXPECT_EQ(json.at("anchor"), 0.25);
  EXPECT_EQ(json.at("snapshot_sha256"), s.snapshot.digest());
  NamedTensors restored;
  for (const std::string& name : written(report)) restored.set(name, weights.at(name));
  EXPECT_EQ(json.at("restored_sha256"), tensors_digest(restored));
  ASSERT_EQ(json.at("layers").size(), 2u);
  const nlohmann::json& row = json.at("layers")[1];
  EXPECT_EQ(row.at("layer"), 2);
  EXPECT_EQ(row.at("mu"), *report.layers[1].mu);
  EXPECT_EQ(row.at("written").size(), 4u);
  EXPECT_EQ(row.at("certificate").at("cholesky"), true);
  EXPECT_EQ(row.at("certificate").at("kappa"), report.layers[1].certificate->kappa);
  const nlohmann::json plain = to_json(restore(weights, s.snapshot, section("plain")));
  for (const char* key : {"mu", "rotation", "certificate"}) EXPECT_FALSE(plain.at("layers")[0].contains(key)) << key;
  EXPECT_FALSE(plain.contains("anchor"));
  EXPECT_EQ(plain.at("selected_layers"), "softmax");
  EXPECT_EQ(plain.at("parts"), "qk");
}

// A layer that was zero when the snapshot was taken has no relative change: null, not a word that JSON does not know.
TEST_P(Restore, ZeroLayersGiveNullsInJson) {
  at::manual_seed(12);
  NamedTensors weights = random_weights(at::kFloat, device());
  for (const std::string& name : {layer_names(0).q_weight, layer_names(0).k_weight}) Tensor(weights.at(name)).zero_();
  const Snapshot snapshot = take_snapshot(weights, softmax_layers());
  tune(weights);
  const RestoreReport report = restore(weights, snapshot, section("procrustes"));
  EXPECT_TRUE(report.layers[0].certificate->zero_matrix);
  const nlohmann::json row = to_json(report).at("layers")[0];
  EXPECT_TRUE(row.at("q_change").is_null());
  EXPECT_TRUE(row.at("certificate").at("kappa").is_null());
  EXPECT_TRUE(at::equal(weights.at(layer_names(0).q_weight).cpu(), at::zeros({kQueryRows, kHidden})));
}

QKR_ON_EVERY_DEVICE(Restore);

}  // namespace
}  // namespace qkr
