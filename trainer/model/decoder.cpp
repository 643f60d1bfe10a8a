#include "trainer/model/decoder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "ops/embedding.h"
#include "ops/few_rows_linear.h"
#include "ops/gates.h"
#include "ops/rms_norm.h"
#include "trainer/model/linear_cross_entropy.h"
#include "trainer/model/recompute.h"
#include "trainer/model/softmax_attention.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

Block make_block(const Architecture& a, const NamedTensors& weights, size_t i) {
  const std::string prefix = kLayersPrefix + std::to_string(i) + ".";
  const std::string mixer = prefix + "self_attn.";
  const auto build = [&]() -> Mixer {
    if (a.layers[i].mixer == MixerKind::kSoftmax) return SoftmaxMixer(a.layers[i].softmax, a.rms_norm_eps, weights, mixer);
    return LightningMixer(a.layers[i].lightning, a.rms_norm_eps, weights, mixer);
  };
  std::vector<at::Tensor> own;
  for (const auto& [name, weight] : weights) {
    if (name.compare(0, prefix.size(), prefix) == 0) own.push_back(weight);
  }
  return Block{weights.at(prefix + "input_layernorm.weight"), weights.at(prefix + "post_attention_layernorm.weight"), build(),
               linear_at(weights, prefix + "mlp.gate_proj"), linear_at(weights, prefix + "mlp.up_proj"),
               linear_at(weights, prefix + "mlp.down_proj"), a.rms_norm_eps, std::move(own)};
}

void check_weights(const Architecture& a, const NamedTensors& weights) {
  const std::vector<WeightSpec> specs = weight_specs(a);
  for (const WeightSpec& spec : specs) {
    const at::Tensor& w = weights.at(spec.name);
    if (w.sizes() != at::IntArrayRef(spec.shape)) {
      fail("tensor ", spec.name, ": shape must be ", at::IntArrayRef(spec.shape), " by config.json, got ", w.sizes());
    }
  }
  if (weights.size() != specs.size()) fail("model: must have ", specs.size(), " tensors, got ", weights.size());
}

bool all_finite(const at::Tensor& x) { return at::isfinite(x).all().item<bool>(); }

const char* mixer_name(const Block& block) {
  return std::holds_alternative<SoftmaxMixer>(block.mixer) ? "softmax" : "lightning";
}

}  // namespace

at::Tensor Block::operator()(const at::Tensor& x, const ForwardContext& context, LayerCache* cache) const {
  const at::Tensor a = rms_norm(x, input_norm, eps);
  const at::Tensor delta = std::visit([&](const auto& mix) { return mix(a, context, cache); }, mixer);
  const auto [b, mixed] = add_rms_norm(delta, x, post_norm, eps);
  const bool in_step = context.step != nullptr;
  const std::vector<at::Tensor> inner = apply_all(b, {&gate, &up}, in_step);
  return mixed + apply_all(swiglu(inner[0], inner[1]), {&down}, in_step)[0];
}

bool Block::is_trained() const {
  return std::any_of(weights.begin(), weights.end(), [](const at::Tensor& weight) { return weight.requires_grad(); });
}

Decoder::Decoder(Architecture architecture, NamedTensors weights)
    : architecture_(std::move(architecture)), weights_(std::move(weights)) {
  check_weights(architecture_, weights_);
  embedding_ = weights_.at(kEmbeddingName);
  head_ = architecture_.tied ? embedding_ : weights_.at(kHeadName);
  final_norm_ = weights_.at(kFinalNormName);
  for (size_t i = 0; i < architecture_.layers.size(); ++i) blocks_.push_back(make_block(architecture_, weights_, i));
  rotary_ = Rotary(architecture_, embedding_.device());
}

ForwardContext Decoder::context_for(const Segments& segments, int64_t cache_capacity) const {
  ForwardContext context{segments, rotary_.table(segments.positions, dtype()), {}, cache_capacity, nullptr};
  const LogitsScaling& scaling = architecture_.logits_scaling;
  const at::ScalarType wide = dtype() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor positions = segments.positions.to(wide);
  if (scaling.kind == LogitsScaling::Kind::kHype) {
    // The official divisor truncates a to an integer; the dividend does not.
    context.logits_factor = (positions + scaling.a).log() / std::log(std::trunc(scaling.a));
  } else if (scaling.kind == LogitsScaling::Kind::kConstant) {
    context.logits_factor = at::full_like(positions, scaling.constant);
  }
  return context;
}

at::Tensor Decoder::forward(const at::Tensor& tokens, const Segments& segments, DecoderCache* cache) const {
  if (cache != nullptr) cache->layers.resize(blocks_.size());
  const ForwardContext context = context_for(segments, cache == nullptr ? 0 : cache->capacity);
  at::Tensor x = embed_tokens(embedding_, tokens);  // [N, hidden]
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const Block& block = blocks_[i];
    if (cache != nullptr) {
      x = block(x, context, &cache->layers[i]);
    } else if (checkpoint_ && c10::GradMode::is_enabled()) {
      // By value: the backward runs after this frame is gone.
      const auto again = [&block, kept = segments, rotary = context.rotary, factor = context.logits_factor](const at::Tensor& input) {
        return block(input, ForwardContext{kept, rotary, factor, 0, nullptr}, nullptr);
      };
      x = recompute_in_backward(again, x, block.is_trained());
    } else {
      x = block(x, context, nullptr);
    }
  }
  if (cache != nullptr) cache->length += segments.tokens();
  return rms_norm(x, final_norm_, architecture_.rms_norm_eps);
}

at::Tensor Decoder::step(const at::Tensor& tokens, BatchCache& cache) const {
  const Segments segments = Segments::stepped(cache.lengths);
  const StepRows rows = step_rows(cache, step_is_recordable());
  ForwardContext context = context_for(segments, cache.capacity);
  context.step = &rows;
  at::Tensor x = embed_tokens(embedding_, tokens);
  for (size_t i = 0; i < blocks_.size(); ++i) x = blocks_[i](x, context, &cache.layers[i]);
  return rms_norm(x, final_norm_, architecture_.rms_norm_eps);
}

bool Decoder::step_is_recordable() const {
  return std::all_of(architecture_.layers.begin(), architecture_.layers.end(), [&](const Layer& layer) {
    return layer.mixer != MixerKind::kSoftmax || flash_serves(device(), dtype(), layer.softmax.head_dim);
  });
}

BatchCache Decoder::batch_cache(int64_t sequences, int64_t capacity) const {
  BatchCache cache;
  cache.capacity = capacity;
  cache.lengths = at::zeros({sequences}, at::TensorOptions(device()).dtype(at::kLong));
  cache.host_lengths.assign(static_cast<size_t>(sequences), 0);
  const at::TensorOptions rows(at::TensorOptions(device()).dtype(dtype()));
  for (const Layer& layer : architecture_.layers) {
    LayerCache& made = cache.layers.emplace_back();
    if (layer.mixer == MixerKind::kSoftmax) {
      made.k = at::empty({sequences, capacity, layer.softmax.kv_heads, layer.softmax.head_dim}, rows);
      made.v = at::empty_like(made.k);
    } else {
      const LightningShape& s = layer.lightning;
      made.state = at::zeros({sequences, s.heads, s.head_dim, s.head_dim}, rows.dtype(dtype() == at::kDouble ? at::kDouble : at::kFloat));
    }
  }
  return cache;
}

at::Tensor Decoder::logits(const at::Tensor& hidden) const {
  return c10::GradMode::is_enabled() ? at::linear(hidden, head_) : few_rows_linear(hidden, {head_})[0];
}

at::Tensor Decoder::loss(const at::Tensor& tokens, const at::Tensor& targets, const Segments& segments, double scale) const {
  return linear_cross_entropy(forward(tokens, segments), head_, targets, scale);
}

std::string Decoder::first_non_finite(const at::Tensor& tokens, const Segments& segments) const {
  const c10::NoGradGuard no_grad;
  const ForwardContext context = context_for(segments, 0);
  at::Tensor x = embed_tokens(embedding_, tokens);
  if (!all_finite(x)) return "embedding";
  for (size_t i = 0; i < blocks_.size(); ++i) {
    x = blocks_[i](x, context, nullptr);
    if (!all_finite(x)) return "layer " + std::to_string(i) + " (" + mixer_name(blocks_[i]) + ")";
  }
  x = rms_norm(x, final_norm_, architecture_.rms_norm_eps);
  return all_finite(x) ? "" : "final norm";
}

std::vector<RoutingNames> Decoder::routing_names() const {
  std::vector<RoutingNames> found;
  for (const int64_t layer : architecture_.softmax_layers()) {
    const std::string prefix = kLayersPrefix + std::to_string(layer) + ".self_attn.";
    const auto name_if_there = [&](const char* name) { return weights_.contains(prefix + name) ? prefix + name : std::string(); };
    found.push_back({layer, prefix + "q_proj.weight", prefix + "k_proj.weight", name_if_there("q_proj.bias"),
                     name_if_there("k_proj.bias"), name_if_there("q_norm.weight"), name_if_there("k_norm.weight")});
  }
  return found;
}

}  // namespace qkr
