// A small hybrid: two softmax layers (GQA, biases, gains) around a Lightning layer whose q_proj has the same shape.
#pragma once

#include <ATen/ATen.h>

#include "trainer/core/named_tensors.h"
#include "trainer/restore/snapshot.h"

namespace qkr::test {

inline constexpr int64_t kHidden = 24, kQueryRows = 32, kKeyRows = 8, kHeadDim = 8;

inline SoftmaxLayer layer_names(int64_t layer) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
  return {layer,
          prefix + "q_proj.weight",
          prefix + "k_proj.weight",
          prefix + "q_proj.bias",
          prefix + "k_proj.bias",
          prefix + "q_norm.weight",
          prefix + "k_norm.weight"};
}

// Layers 0 and 2 are softmax; 1 is not, and uses the same names.
inline std::vector<SoftmaxLayer> softmax_layers() { return {layer_names(0), layer_names(2)}; }

inline NamedTensors random_weights(at::ScalarType dtype, at::Device device) {
  NamedTensors weights;
  const auto add = [&](const std::string& name, at::IntArrayRef shape) {
    weights.set(name, at::randn(shape, at::kDouble).to(dtype).to(device));
  };
  add("model.embed_tokens.weight", {50, kHidden});
  for (int64_t layer = 0; layer < 3; ++layer) {
    const SoftmaxLayer names = layer_names(layer);
    add(names.q_weight, {kQueryRows, kHidden});
    add(names.k_weight, {layer == 1 ? kQueryRows : kKeyRows, kHidden});
    add(names.q_bias, {kQueryRows});
    add(names.k_bias, {kKeyRows});
    add(names.q_norm, {kHeadDim});
    add(names.k_norm, {kHeadDim});
    add("model.layers." + std::to_string(layer) + ".self_attn.v_proj.weight", {kKeyRows, kHidden});
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

}  // namespace qkr::test
