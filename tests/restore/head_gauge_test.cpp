// procrustes-head: attention logits written out in fp64 must not move under what the gauge allows, and must move under what it
// forbids; a planted rotation is found; everything else is refused with its reason.
#include "trainer/restore/head_gauge.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/restore/support.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary
using at::Tensor;

Tensor norm(const Tensor& x, const Tensor& gain) {  // [T, H, D]
  return gain.defined() ? x / (x.square().mean(-1, true) + 1e-6).sqrt() * gain : x;
}

Tensor rotate(const Tensor& x) {  // [T, H, D], pairs (j, j + D/2), position = row
  const int64_t half = x.size(2) / 2;
  const Tensor angle = at::arange(x.size(0), at::kDouble).view({-1, 1, 1}) * at::exp(-at::arange(half, at::kDouble)).view({1, 1, -1});
  const Tensor a = x.narrow(2, 0, half), b = x.narrow(2, half, half);
  return at::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2);
}

// Logits [H, T, T] of a layer over fixed inputs.
Tensor logits(const NamedTensors& weights, const MixerLayer& layer, const Tensor& x) {
  const auto read = [&](MixerPart part, MixerRole role) {
    const std::string name = layer.name_of(part, role);
    return name.empty() ? Tensor() : weights.at(name).cpu().to(at::kDouble);
  };
  const auto heads = [&](MixerPart part) {
    const Tensor bias = read(part, MixerRole::kBias);
    Tensor y = x.mm(read(part, MixerRole::kWeight).t());
    if (bias.defined()) y = y + bias;
    y = norm(y.view({x.size(0), -1, layer.head_dim}), read(part, MixerRole::kGain));
    return layer.rope ? rotate(y) : y;
  };
  const Tensor q = heads(MixerPart::kQ), k = heads(MixerPart::kK).repeat_interleave(layer.heads / layer.kv_heads, 1);
  return at::einsum("thd,shd->hts", {q, k});
}

double distance(const Tensor& a, const Tensor& b) { return (at::linalg_vector_norm(a - b) / at::linalg_vector_norm(b)).item<double>(); }

enum class Gains { kNone, kUniform, kPairs, kAllDiffer };

// One layer of 6 heads on 2 KV heads, in fp64.
struct OneLayer {
  MixerLayer layer;
  NamedTensors pre;

  OneLayer(bool rope, Gains gains, bool bias, at::Device device) {
    const auto add = [&](MixerPart part, MixerRole role, const std::string& name, const Tensor& value) {
      layer.tensors.push_back({part, role, name});
      pre.set(name, value.to(device));
    };
    layer = {3, true, 6, 2, kHeadDim, rope, false, {}};
    for (const auto& [part, letter, heads] : {std::tuple{MixerPart::kQ, std::string("q"), 6}, {MixerPart::kK, std::string("k"), 2}}) {
      add(part, MixerRole::kWeight, letter + "_proj.weight", at::randn({heads * kHeadDim, kHidden}, at::kDouble));
      if (bias) add(part, MixerRole::kBias, letter + "_proj.bias", at::randn({heads * kHeadDim}, at::kDouble));
      const Tensor differ = at::rand({kHeadDim}, at::kDouble) + 0.5, half = differ.narrow(0, 0, kHeadDim / 2);
      if (gains == Gains::kUniform) add(part, MixerRole::kGain, letter + "_norm.weight", at::full({kHeadDim}, 1.25, at::kDouble));
      if (gains == Gains::kPairs) add(part, MixerRole::kGain, letter + "_norm.weight", at::cat({half, half}));
      if (gains == Gains::kAllDiffer) add(part, MixerRole::kGain, letter + "_norm.weight", differ);
    }
  }

  // Each KV head's coordinates turned by a matrix of its own, Q heads with it.
  NamedTensors turned(const Tensor& a) const {
    NamedTensors out = clone(pre);
    for (const MixerTensor& t : layer.tensors) {
      if (t.role == MixerRole::kGain) continue;
      const Tensor& w = pre.at(t.name);
      const Tensor matrix = t.role == MixerRole::kBias ? w.unsqueeze(1) : w;
      out.set(t.name, turn_heads(a, matrix).view(w.sizes()).contiguous());
    }
    return out;
  }
};

RestoreConfigSection head_section() {
  RestoreConfigSection s;
  s.method = "procrustes-head";
  return s;
}

Tensor random_orthogonal(int64_t count, at::Device device) {
  return std::get<0>(at::linalg_qr(at::randn({count, kHeadDim, kHeadDim}, at::kDouble))).contiguous().to(device);
}

Tensor random_phases(int64_t count, at::Device device) {
  const int64_t half = kHeadDim / 2;
  const Tensor phi = at::rand({count, half}, at::kDouble) * 6 - 3;
  return (at::diag_embed(at::cat({phi.cos(), phi.cos()}, 1)) + at::diag_embed(phi.sin(), -half) - at::diag_embed(phi.sin(), half)).to(device);
}

struct Case {
  bool rope;
  Gains gains;
  bool bias;
  int64_t free;
};

class HeadGauges : public DeviceTest {
 protected:
  const Tensor x_ = [] {
    at::manual_seed(40);
    return at::randn({9, kHidden}, at::kDouble);
  }();
};

// Every row of the table of what is exact: the restored layer has plain's logits, and lies nearer to the tuned weights.
TEST_P(HeadGauges, LogitsAreThoseOfPlain) {
  for (const Case c : {Case{false, Gains::kNone, false, 8}, {false, Gains::kNone, true, 8}, {false, Gains::kUniform, false, 8},
                       {false, Gains::kPairs, true, 8}, {true, Gains::kNone, true, 8}, {true, Gains::kUniform, false, 8},
                       {true, Gains::kPairs, true, 8}}) {
    at::manual_seed(41);
    const OneLayer one(c.rope, c.gains, c.bias, device());
    const Snapshot snapshot = take_snapshot(one.pre, {one.layer});
    const Tensor plant = c.rope ? random_phases(2, device()) : random_orthogonal(2, device());
    NamedTensors weights = one.turned(plant);
    for (const auto& [name, tensor] : weights) {
      if (name.find("norm") == std::string::npos) Tensor(tensor).add_(0.05 * at::randn(tensor.sizes(), at::kDouble).to(device()));
    }
    const RestoreReport report = restore(weights, snapshot, head_section());
    EXPECT_LE(distance(logits(weights, one.layer, x_), logits(one.pre, one.layer, x_)), 1e-12) << c.rope << static_cast<int>(c.gains);
    EXPECT_EQ(report.layers[0].free_coordinates, c.free);
    EXPECT_LT(report.layers[0].residual_after, 0.9 * report.layers[0].residual_before);
    EXPECT_GT(*report.layers[0].rotation, 0.1);
    EXPECT_EQ(report.layers[0].certificate.has_value(), !c.rope);
  }
}

// Guards the guard: what the gauge leaves out does move the logits.
TEST_P(HeadGauges, ForbiddenRotationsMoveLogits) {
  at::manual_seed(42);
  const auto moved = [&](const OneLayer& one, const Tensor& a) {
    return distance(logits(one.turned(a), one.layer, x_), logits(one.pre, one.layer, x_));
  };
  const Tensor full = random_orthogonal(2, device()), phases = random_phases(2, device());
  EXPECT_GT(moved(OneLayer(true, Gains::kNone, false, device()), full), 0.05);
  EXPECT_GT(moved(OneLayer(false, Gains::kAllDiffer, false, device()), full), 0.05);
  EXPECT_GT(moved(OneLayer(true, Gains::kAllDiffer, false, device()), phases), 0.02);
  EXPECT_LE(moved(OneLayer(true, Gains::kPairs, false, device()), phases), 1e-12);
  EXPECT_LE(moved(OneLayer(false, Gains::kUniform, false, device()), full), 1e-12);
}

TEST_P(HeadGauges, PlantedRotationsAreRecovered) {
  at::manual_seed(43);
  for (const bool rope : {false, true}) {
    for (const bool bias : {false, true}) {
      const OneLayer one(rope, Gains::kNone, bias, device());
      const Snapshot snapshot = take_snapshot(one.pre, {one.layer});
      NamedTensors weights = one.turned(rope ? random_phases(2, device()) : random_orthogonal(2, device()));
      const NamedTensors tuned = clone(weights);
      restore(weights, snapshot, head_section());
      for (const auto& [name, tensor] : tuned) EXPECT_LE(distance(weights.at(name), tensor), 1e-13) << name;
    }
  }
}

// Gains that training moved apart leave signs and equal pairs: still exact.
TEST_P(HeadGauges, GainsThatMovedApartLeaveSigns) {
  for (const bool rope : {false, true}) {
    at::manual_seed(44);
    const OneLayer one(rope, Gains::kPairs, false, device());
    const Snapshot snapshot = take_snapshot(one.pre, {one.layer});
    NamedTensors weights = one.turned(-at::eye(kHeadDim, at::kDouble).repeat({2, 1, 1}).to(device()));
    NamedTensors plain = clone(weights);
    for (NamedTensors* set : {&weights, &plain}) {
      for (const char* name : {"q_norm.weight", "k_norm.weight"}) {
        Tensor(set->at(name)).add_(at::arange(kHeadDim, at::kDouble).to(device()) * 0.01 + (name[0] == 'q' ? 0.001 : 0));
      }
    }
    RestoreConfigSection config = head_section();
    const RestoreReport report = restore(weights, snapshot, config);
    config.method = "plain";
    restore(plain, snapshot, config);
    EXPECT_EQ(report.layers[0].free_coordinates, 0);
    EXPECT_LE(distance(logits(weights, one.layer, x_), logits(plain, one.layer, x_)), 1e-12);
    EXPECT_LE(report.layers[0].residual_after, 1e-15);  // A = -I was found
  }
}

// procrustes turns the layer's input, which RoPE, QK-norm, biases and grouped heads do not see: a layer whose input basis was turned
// by R gets R back, and has the old logits on turned inputs.
TEST_P(HeadGauges, TheInputsRotationCommutesWithEverything) {
  at::manual_seed(47);
  const Tensor r = std::get<0>(at::linalg_qr(at::randn({kHidden, kHidden}, at::kDouble)));
  for (const Case c : {Case{false, Gains::kNone, false, 0}, {true, Gains::kNone, true, 0}, {false, Gains::kAllDiffer, true, 0},
                       {true, Gains::kAllDiffer, false, 0}}) {
    const OneLayer one(c.rope, c.gains, c.bias, device());
    const Snapshot snapshot = take_snapshot(one.pre, {one.layer});
    NamedTensors weights = clone(one.pre);
    for (const char* name : {"q_proj.weight", "k_proj.weight"}) weights.set(name, at::mm(one.pre.at(name), here(r)));
    RestoreConfigSection config;
    config.method = "procrustes";
    config.anchor = 0;
    Rotations rotations;
    restore(weights, snapshot, config, &rotations);
    EXPECT_LE(max_abs_difference(rotations.at("q_proj.weight").cpu(), r), 1e-10);
    EXPECT_TRUE(same_bytes(rotations.at("q_proj.weight"), rotations.at("k_proj.weight")));
    EXPECT_LE(distance(logits(weights, one.layer, x_.mm(r)), logits(one.pre, one.layer, x_)), 1e-11) << c.rope;
    EXPECT_GT(distance(logits(weights, one.layer, x_), logits(one.pre, one.layer, x_)), 0.1) << "the inputs must turn too";
  }
}

// One R a layer: a Q that turned by another R than K is not explained by any.
TEST_P(HeadGauges, QAndKNeverTurnApart) {
  at::manual_seed(48);
  const OneLayer one(false, Gains::kNone, false, device());
  NamedTensors weights = clone(one.pre);
  for (const char* name : {"q_proj.weight", "k_proj.weight"}) {
    weights.set(name, at::mm(one.pre.at(name), here(std::get<0>(at::linalg_qr(at::randn({kHidden, kHidden}, at::kDouble))))));
  }
  RestoreConfigSection config;
  config.method = "procrustes";
  config.anchor = 0;
  EXPECT_GT(restore(weights, take_snapshot(one.pre, {one.layer}), config).layers[0].residual_after, 0.3);
}

// The Q heads of a group turn with its K head and not by themselves.
TEST_P(HeadGauges, AHeadThatLeavesItsGroupMovesLogits) {
  at::manual_seed(49);
  const OneLayer one(false, Gains::kNone, false, device());
  NamedTensors weights = one.turned(random_orthogonal(2, device()));
  EXPECT_LE(distance(logits(weights, one.layer, x_), logits(one.pre, one.layer, x_)), 1e-12);
  Tensor q = weights.at("q_proj.weight").narrow(0, kHeadDim, kHeadDim);  // head 1 of 6, in the group of KV head 0
  q.copy_(at::mm(random_orthogonal(1, device())[0], q));
  EXPECT_GT(distance(logits(weights, one.layer, x_), logits(one.pre, one.layer, x_)), 0.1);
}

TEST_P(HeadGauges, ANeverTunedModelIsAFixedPoint) {
  at::manual_seed(45);
  for (const bool rope : {false, true}) {
    const OneLayer one(rope, Gains::kNone, true, device());
    const Snapshot snapshot = take_snapshot(one.pre, {one.layer});
    NamedTensors weights = clone(one.pre);
    EXPECT_LE(*restore(weights, snapshot, head_section()).layers[0].rotation, 1e-13);
    for (const auto& [name, tensor] : one.pre) EXPECT_LE(distance(weights.at(name), tensor), 1e-13) << name;
  }
}

TEST_P(HeadGauges, RefusesWithTheReason) {
  at::manual_seed(46);
  const auto message = [&](const OneLayer& one, bool biases = true) {
    RestoreConfigSection config = head_section();
    config.biases = biases;
    NamedTensors weights = clone(one.pre);
    return QKR_MESSAGE_OF(restore(weights, take_snapshot(one.pre, {one.layer}), config));
  };
  const std::string start = "qk_restore.method: procrustes-head must not move the attention logits, but layer 3 has ";
  EXPECT_EQ(message(OneLayer(false, Gains::kAllDiffer, false, device())),
            start + "QK-norm gains whose products all differ, so that only signs leave its logits alone");
  EXPECT_EQ(message(OneLayer(true, Gains::kAllDiffer, false, device())),
            start + "RoPE and QK-norm gains that differ within every pair, so that only signs leave its logits alone");
  EXPECT_EQ(message(OneLayer(true, Gains::kNone, true, device()), false),
            start + "q and k biases, which have to turn with their weights, and qk_restore.biases is false");
  OneLayer active(false, Gains::kNone, false, device());
  active.layer.qk_activation = true;
  EXPECT_EQ(message(active), start + "an activation between its q and k projections and their product, which no rotation of a head passes");
}

QKR_ON_EVERY_DEVICE(HeadGauges);

}  // namespace
}  // namespace qkr
