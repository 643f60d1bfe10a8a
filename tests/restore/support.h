// A small hybrid: two softmax layers (GQA, biases, gains) around a Lightning layer whose q_proj has the same shape.
#pragma once

#include <ATen/ATen.h>

#include "trainer/core/named_tensors.h"
#include "trainer/restore/snapshot.h"

namespace qkr::test {

inline constexpr int64_t kHidden = 24, kQueryRows = 32, kKeyRows = 8, kHeadDim = 8;

// What the restore room is told of a layer: H = 4 heads on 1 KV head; layers 0 and 2 are softmax; 1 is not, and uses the same names.
inline MixerLayer mixer_layer(int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
  const bool softmax = layer != 1;
  const auto tensor = [&](MixerPart part, MixerRole role, const char* name) { return MixerTensor{part, role, prefix + name}; };
  return {layer, softmax, kQueryRows / kHeadDim, (softmax ? kKeyRows : kQueryRows) / kHeadDim, kHeadDim, false, false,
          {tensor(MixerPart::kQ, MixerRole::kWeight, "q_proj.weight"), tensor(MixerPart::kQ, MixerRole::kBias, "q_proj.bias"),
           tensor(MixerPart::kK, MixerRole::kWeight, "k_proj.weight"), tensor(MixerPart::kK, MixerRole::kBias, "k_proj.bias"),
           tensor(MixerPart::kQ, MixerRole::kGain, "q_norm.weight"), tensor(MixerPart::kK, MixerRole::kGain, "k_norm.weight"),
           tensor(MixerPart::kV, MixerRole::kWeight, "v_proj.weight"), tensor(MixerPart::kV, MixerRole::kBias, "v_proj.bias"),
           tensor(MixerPart::kGate, MixerRole::kWeight, "o_gate.weight"), tensor(MixerPart::kO, MixerRole::kWeight, "o_proj.weight"),
           tensor(MixerPart::kO, MixerRole::kGain, "o_norm.weight")}};
}

inline std::vector<MixerLayer> all_layers() { return {mixer_layer(0), mixer_layer(1), mixer_layer(2)}; }

// The names of a layer's q and k: what a restore works on if nothing else is asked for.
struct RoutingTensors {
  std::string q_weight, k_weight, q_bias, k_bias, q_norm, k_norm;
};
inline RoutingTensors layer_names(int64_t layer) {
  const MixerLayer l = mixer_layer(layer);
  const auto name = [&](MixerPart part, MixerRole role) { return l.name_of(part, role); };
  return {name(MixerPart::kQ, MixerRole::kWeight), name(MixerPart::kK, MixerRole::kWeight), name(MixerPart::kQ, MixerRole::kBias),
          name(MixerPart::kK, MixerRole::kBias), name(MixerPart::kQ, MixerRole::kGain), name(MixerPart::kK, MixerRole::kGain)};
}
inline std::vector<RoutingTensors> softmax_names() { return {layer_names(0), layer_names(2)}; }

// q and k of the softmax layers alone.
inline std::vector<MixerLayer> softmax_layers() {
  std::vector<MixerLayer> layers = {mixer_layer(0), mixer_layer(2)};
  for (MixerLayer& layer : layers) layer.tensors.resize(6);
  return layers;
}

inline NamedTensors random_weights(at::ScalarType dtype, at::Device device) {
  NamedTensors weights;
  const auto add = [&](const std::string& name, at::IntArrayRef shape) {
    weights.set(name, at::randn(shape, at::kDouble).to(dtype).to(device));
  };
  add("model.embed_tokens.weight", {50, kHidden});
  for (const MixerLayer& layer : all_layers()) {
    const int64_t q = layer.heads * layer.head_dim, kv = layer.kv_heads * layer.head_dim;
    for (const MixerTensor& t : layer.tensors) {
      const int64_t out = t.part == MixerPart::kQ || t.part == MixerPart::kGate ? q : kv;
      if (t.role == MixerRole::kGain) {
        add(t.name, {t.part == MixerPart::kO ? q : kHeadDim});
      } else if (t.role == MixerRole::kBias) {
        add(t.name, {out});
      } else {
        add(t.name, t.part == MixerPart::kO ? at::IntArrayRef({kHidden, q}) : at::IntArrayRef({out, kHidden}));
      }
    }
  }
  return weights;
}

inline NamedTensors clone(const NamedTensors& weights) {
  NamedTensors copy;
  for (const auto& [name, tensor] : weights) copy.set(name, tensor.detach().clone());
  return copy;
}

// Everything moves by a few percent, as in training.
inline void tune(NamedTensors& weights) {
  for (const auto& [name, tensor] : weights) {
    at::Tensor live = tensor;
    live.copy_(tensor.to(at::kDouble) + 0.05 * at::randn(tensor.sizes(), at::kDouble).to(tensor.device()));
  }
}

// Before and after training, and a snapshot of before that holds `layers`.
struct Scene {
  NamedTensors pre, post;
  Snapshot snapshot;
};

inline Scene scene(at::ScalarType dtype, at::Device device, const std::vector<MixerLayer>& layers) {
  NamedTensors weights = random_weights(dtype, device);
  NamedTensors pre = clone(weights);
  Snapshot snapshot = take_snapshot(weights, layers);
  tune(weights);
  return {pre, weights, snapshot};
}

}  // namespace qkr::test
