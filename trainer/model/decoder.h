// The language model: tokens → hidden states → logits or loss. A plain value over live weights; nothing is registered anywhere.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "trainer/core/named_tensors.h"
#include "trainer/model/architecture.h"
#include "trainer/model/cache.h"
#include "trainer/model/mixers.h"
#include "trainer/model/segments.h"

namespace qkr {

struct Block {
  at::Tensor input_norm, post_norm;  // [hidden]
  Mixer mixer;
  Linear gate, up, down;
  double eps = 0;
  std::vector<at::Tensor> weights;  // all of the block's

  bool is_trained() const;  // does any of them want a gradient?

  // x [N, hidden] → [N, hidden]: pre-norm mixer, then pre-norm SwiGLU, each added to the residual stream.
  at::Tensor operator()(const at::Tensor& x, const ForwardContext& context, LayerCache* cache) const;
};

// Checkpoint names of a softmax layer's routing weights; "" where the architecture has none.
struct RoutingNames {
  int64_t layer = 0;
  std::string q_weight, k_weight, q_bias, k_bias, q_norm, k_norm;
};

class Decoder {
 public:
  // `weights` must hold exactly weight_specs(architecture), all of one dtype and device. The tensors are shared, not copied.
  Decoder(Architecture architecture, NamedTensors weights);

  // tokens [N] int64 on the weights' device → hidden states after the final norm [N, hidden]. With a cache the tokens continue
  // its sequence (segments from Segments::continued) and nothing is differentiable.
  at::Tensor forward(const at::Tensor& tokens, const Segments& segments, DecoderCache* cache = nullptr) const;

  // One more token of each of B sequences: tokens [B] int64 → hidden states [B, hidden]. Counting up cache.lengths is the caller's.
  // Nothing waits for the device if step_is_recordable().
  at::Tensor step(const at::Tensor& tokens, BatchCache& cache) const;
  bool step_is_recordable() const;

  // Empty slots for `sequences` sequences of up to `capacity` tokens.
  BatchCache batch_cache(int64_t sequences, int64_t capacity) const;

  at::Tensor logits(const at::Tensor& hidden) const;  // [N, hidden] → [N, V], model dtype

  // scale * sum over targets of -log p(target), fp32 scalar; logits exist for a slice of rows at a time. Differentiable.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets, const Segments& segments, double scale) const;

  // The first place where a forward pass leaves the finite numbers: "embedding", "layer 3 (lightning)", "final norm", or "".
  std::string first_non_finite(const at::Tensor& tokens, const Segments& segments) const;

  // Keep one hidden state a block and compute the rest again in the backward.
  void checkpoint_activations(bool on) { checkpoint_ = on; }

  const Architecture& architecture() const { return architecture_; }
  const NamedTensors& weights() const { return weights_; }
  std::vector<RoutingNames> routing_names() const;
  at::Device device() const { return embedding_.device(); }
  at::ScalarType dtype() const { return embedding_.scalar_type(); }

 private:
  ForwardContext context_for(const Segments& segments, int64_t cache_capacity) const;

  Architecture architecture_;
  NamedTensors weights_;
  at::Tensor embedding_, head_, final_norm_;  // head_ is embedding_ where they are tied
  std::vector<Block> blocks_;
  Rotary rotary_;
  bool checkpoint_ = false;
};

}  // namespace qkr
