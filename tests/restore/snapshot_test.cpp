#include "trainer/restore/snapshot.h"

#include <gtest/gtest.h>

#include "tests/restore/support.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary

class SnapshotTest : public DeviceTest {};

TEST_P(SnapshotTest, KeepsBytesOfTheListedTensorsAndNothingElse) {
  at::manual_seed(1);
  NamedTensors weights = random_weights(at::kBFloat16, device());
  const NamedTensors before = clone(weights);
  const Snapshot snapshot = take_snapshot(weights, softmax_layers(), {{"source", "abc"}});
  tune(weights);  // a snapshot is not a view
  EXPECT_EQ(snapshot.tensors().size(), 12u);
  EXPECT_FALSE(snapshot.tensors().contains(layer_names(1).q_weight));
  for (const auto& [name, tensor] : snapshot.tensors()) {
    EXPECT_TRUE(tensor.is_cpu());
    EXPECT_TRUE(same_bytes(tensor, before.at(name))) << name;
  }
  EXPECT_EQ(snapshot.metadata().at("source"), "abc");
}

TEST_P(SnapshotTest, LeavesRequiringGradAndTransposedWeightsAreCopied) {
  at::manual_seed(2);
  NamedTensors weights = random_weights(at::kFloat, device());
  const std::string q = layer_names(0).q_weight;
  weights.set(q, at::randn({kHidden, kQueryRows}).to(device()).t().requires_grad_(true));
  const Snapshot snapshot = take_snapshot(weights, softmax_layers());
  EXPECT_FALSE(snapshot.tensors().at(q).requires_grad());
  EXPECT_TRUE(snapshot.tensors().at(q).is_contiguous());
  EXPECT_TRUE(same_bytes(snapshot.tensors().at(q), weights.at(q)));
}

QKR_ON_EVERY_DEVICE(SnapshotTest);

NamedTensors reversed(const NamedTensors& tensors) {
  std::vector<NamedTensors::Entry> entries(tensors.begin(), tensors.end());
  NamedTensors out;
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) out.set(entry->first, entry->second);
  return out;
}

TEST(Snapshot, DigestSeesNamesDtypesShapesAndBytesButNotTheOrder) {
  at::manual_seed(3);
  const Snapshot snapshot = take_snapshot(random_weights(at::kBFloat16, at::kCPU), softmax_layers());
  const std::string digest = snapshot.digest();
  EXPECT_EQ(digest.size(), 64u);
  EXPECT_EQ(Snapshot(reversed(snapshot.tensors()), snapshot.layers()).digest(), digest);

  const std::string q = layer_names(0).q_weight;
  const auto with = [&](const std::string& name, const at::Tensor& t) {
    NamedTensors other = clone(snapshot.tensors());
    other.set(name, t);
    return tensors_digest(other);
  };
  at::Tensor one_bit = snapshot.tensors().at(q).clone();
  one_bit.view(at::kShort)[0][0].bitwise_xor_(1);
  EXPECT_NE(with(q, one_bit), digest);
  EXPECT_NE(with(q, snapshot.tensors().at(q).view({kHidden, kQueryRows})), digest);  // same bytes, other shape
  EXPECT_NE(with(q, snapshot.tensors().at(q).view(at::kHalf)), digest);              // same bytes, other dtype
  EXPECT_NE(with("another", at::zeros({0})), digest);
  EXPECT_EQ(with(q, snapshot.tensors().at(q).clone()), digest);
}

// Anybody can compute it again: the bytes that are hashed are part of the format.
TEST(Snapshot, DigestIsOfTheWrittenForm) {
  NamedTensors one;
  one.set("w", at::tensor({1.0f, 2.0f}));
  // printf 'w\0Float[2]\0\x00\x00\x80\x3f\x00\x00\x00\x40' | sha256sum
  EXPECT_EQ(tensors_digest(one), "359f0725150d855a3ef4db5630e5cc2500daaea880a3f113eeddcef822c163de");
}

TEST(Snapshot, ErrorsNameTheTensor) {
  const NamedTensors weights = random_weights(at::kFloat, at::kCPU);
  const auto expect = [](const std::string& want, const std::string& message) { EXPECT_EQ(message, want); };
  MixerLayer absent = mixer_layer(7);
  expect("snapshot: tensor model.layers.7.self_attn.q_proj.weight of layer 7 is missing from the model",
         QKR_MESSAGE_OF(take_snapshot(weights, {absent})));
  expect("snapshot: tensor model.layers.0.self_attn.q_proj.weight must belong to one layer, got it twice",
         QKR_MESSAGE_OF(take_snapshot(weights, {mixer_layer(0), mixer_layer(0)})));
  MixerLayer wrong = mixer_layer(0);
  wrong.tensors[3].role = MixerRole::kWeight;
  expect("snapshot: model.layers.0.self_attn.k_proj.bias must be a matrix [rows, d], got shape [8]",
         QKR_MESSAGE_OF(take_snapshot(weights, {wrong})));
  MixerLayer heads = mixer_layer(0);
  heads.kv_heads = 2;
  expect("snapshot: model.layers.0.self_attn.k_proj.weight must have 16 rows, heads times head_dim, got 8",
         QKR_MESSAGE_OF(take_snapshot(weights, {heads})));
  const Snapshot snapshot = take_snapshot(weights, softmax_layers());
  expect(
      "snapshot: tensor model.layers.2.self_attn.q_proj.weight must belong to a layer, got none that lists it",
      QKR_MESSAGE_OF(Snapshot(snapshot.tensors(), {softmax_layers()[0]})));
  NamedTensors incomplete;
  for (const auto& [name, tensor] : snapshot.tensors()) {
    if (name != layer_names(2).k_norm) incomplete.set(name, tensor);
  }
  expect("snapshot: tensor model.layers.2.self_attn.k_norm.weight of layer 2 is missing",
         QKR_MESSAGE_OF(Snapshot(incomplete, softmax_layers())));
}

}  // namespace
}  // namespace qkr
