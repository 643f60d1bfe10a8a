// The two token mixers of a block and what they share. Plain structs over named tensors; a is the normed block input [N, hidden].
#pragma once

#include <ATen/core/Tensor.h>

#include <variant>
#include <vector>

#include "trainer/core/named_tensors.h"
#include "trainer/model/architecture.h"
#include "trainer/model/cache.h"
#include "trainer/model/rope.h"
#include "trainer/model/segments.h"
#include "trainer/model/step_attention.h"

namespace qkr {

struct Linear {
  at::Tensor weight;  // [out, in]
  at::Tensor bias;    // [out], undefined: none
  at::Tensor operator()(const at::Tensor& x) const;
};

// The weights called <prefix>.weight and, if it exists, <prefix>.bias.
Linear linear_at(const NamedTensors& weights, const std::string& prefix);

// Each of the layers of x. in_step: of a decode step, so in one launch where few_rows_linear serves; nothing is differentiable then.
std::vector<at::Tensor> apply_all(const at::Tensor& x, const std::vector<const Linear*>& layers, bool in_step);

// Everything of one forward call that is the same in every layer.
struct ForwardContext {
  const Segments& segments;
  RotaryTable rotary;        // empty if no layer rotates
  at::Tensor logits_factor;  // [N] fp32: the factor on q in softmax layers; undefined: none
  int64_t cache_capacity = 0;
  const StepRows* step = nullptr;  // the tokens are one more of each sequence of a BatchCache, whose layers are then given
};

// Softmax attention: Qwen, Llama, and HypeNet's (NoPE, QK-norm, sigmoid output gate).
struct SoftmaxMixer {
  SoftmaxShape shape;
  double eps = 0;
  Linear q, k, v, o, gate;    // gate.weight undefined: no gate
  at::Tensor q_norm, k_norm;  // [D]; undefined: none

  SoftmaxMixer(const SoftmaxShape& shape, double eps, const NamedTensors& weights, const std::string& prefix);
  // `cache` null: packed. Returns [N, hidden].
  at::Tensor operator()(const at::Tensor& a, const ForwardContext& context, LayerCache* cache) const;
};

// HypeNet's Lightning layer: QK-norm, RoPE, constant decay in fp32, RMSNorm over all heads together, sigmoid gate, projection.
struct LightningMixer {
  LightningShape shape;
  double eps = 0;
  Linear q, k, v, o, z;               // z.weight undefined: no gate
  at::Tensor q_norm, k_norm, o_norm;  // [D], [D], [H D]; undefined: none
  at::Tensor slopes;                  // [H] fp32 (fp64 in a fp64 model)

  LightningMixer(const LightningShape& shape, double eps, const NamedTensors& weights, const std::string& prefix);
  at::Tensor operator()(const at::Tensor& a, const ForwardContext& context, LayerCache* cache) const;
};

using Mixer = std::variant<SoftmaxMixer, LightningMixer>;

}  // namespace qkr
