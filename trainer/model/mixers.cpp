#include "trainer/model/mixers.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/few_rows_linear.h"
#include "ops/gates.h"
#include "ops/lightning_attention.h"
#include "ops/qk_norm_rope.h"
#include "ops/rms_norm.h"
#include "trainer/model/lightning_attention.h"
#include "trainer/model/softmax_attention.h"

namespace qkr {
namespace {

// fp32 islands stay fp64 in a fp64 model, which is how the tests reach the truth.
at::ScalarType island(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor heads_of(const at::Tensor& x, int64_t head_dim) { return x.view({x.size(0), -1, head_dim}); }

std::optional<at::Tensor> if_defined(const at::Tensor& t) { return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt; }

// Queries [N, H, D] and keys [N, KV, D] normed and rotated where the layer does so, the queries times the factor: a query's
// position decides, so (cached) keys need none.
std::tuple<at::Tensor, at::Tensor> for_attention(const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& q_norm,
                                                 const at::Tensor& k_norm, double eps, const RotaryTable* rotary,
                                                 const at::Tensor& factor) {
  const bool both = q_norm.defined() || rotary != nullptr;
  if (!both && !factor.defined()) return {queries, keys};
  const RotaryTable tables = rotary == nullptr ? RotaryTable() : *rotary;
  if (!both) return {qk_norm_rope(queries, {}, {}, {}, factor, eps), keys};
  return qk_norm_rope_pair(queries, keys, if_defined(q_norm), if_defined(k_norm), if_defined(tables.cos), if_defined(tables.sin),
                           if_defined(factor), eps);
}

at::Tensor tensor_or_none(const NamedTensors& weights, const std::string& name) {
  const at::Tensor* found = weights.find(name);
  return found == nullptr ? at::Tensor() : *found;
}

}  // namespace

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

std::vector<at::Tensor> apply_all(const at::Tensor& x, const std::vector<const Linear*>& layers, bool in_step) {
  const bool has_bias = std::any_of(layers.begin(), layers.end(), [](const Linear* layer) { return layer->bias.defined(); });
  std::vector<at::Tensor> weights, made;
  if (in_step && !has_bias) {
    for (const Linear* layer : layers) weights.push_back(layer->weight);
    return few_rows_linear(x, weights);
  }
  for (const Linear* layer : layers) made.push_back((*layer)(x));
  return made;
}

Linear linear_at(const NamedTensors& weights, const std::string& prefix) {
  return {weights.at(prefix + ".weight"), tensor_or_none(weights, prefix + ".bias")};
}

SoftmaxMixer::SoftmaxMixer(const SoftmaxShape& s, double norm_eps, const NamedTensors& weights, const std::string& prefix)
    : shape(s), eps(norm_eps), q(linear_at(weights, prefix + "q_proj")), k(linear_at(weights, prefix + "k_proj")),
      v(linear_at(weights, prefix + "v_proj")), o(linear_at(weights, prefix + "o_proj")),
      q_norm(tensor_or_none(weights, prefix + "q_norm.weight")), k_norm(tensor_or_none(weights, prefix + "k_norm.weight")) {
  if (shape.output_gate) gate = linear_at(weights, prefix + "o_gate");
}

at::Tensor SoftmaxMixer::operator()(const at::Tensor& a, const ForwardContext& context, LayerCache* cache) const {
  const RotaryTable* const rotary = shape.rope ? &context.rotary : nullptr;
  const bool in_step = context.step != nullptr, gated = gate.weight.defined();
  std::vector<const Linear*> of_input = {&q, &k, &v};
  if (in_step && gated) of_input.push_back(&gate);  // else it waits until it is needed
  const std::vector<at::Tensor> from_input = apply_all(a, of_input, in_step);
  const auto gate_of_input = [&] { return in_step ? from_input[3] : gate(a); };
  const auto [queries, keys] = for_attention(heads_of(from_input[0], shape.head_dim), heads_of(from_input[1], shape.head_dim),
                                             q_norm, k_norm, eps, rotary, context.logits_factor);
  const at::Tensor values = heads_of(from_input[2], shape.head_dim);  // [N, KV, D]
  if (cache != nullptr && cache->keep_q) cache->q = queries;
  at::Tensor mixed =
      cache == nullptr          ? attend_packed(queries, keys, values, context.segments, shape.window)
      : in_step ? attend_step(queries, keys, values, *cache, *context.step, shape.window)
                                : attend_cached(queries, keys, values, *cache, context.segments.past, context.cache_capacity, shape.window);
  mixed = mixed.reshape({a.size(0), shape.heads * shape.head_dim});
  if (gated) mixed = sigmoid_gate(gate_of_input(), mixed);
  return apply_all(mixed, {&o}, in_step)[0];
}

LightningMixer::LightningMixer(const LightningShape& s, double norm_eps, const NamedTensors& weights, const std::string& prefix)
    : shape(s), eps(norm_eps), q(linear_at(weights, prefix + "q_proj")), k(linear_at(weights, prefix + "k_proj")),
      v(linear_at(weights, prefix + "v_proj")), o(linear_at(weights, prefix + "o_proj")),
      q_norm(tensor_or_none(weights, prefix + "q_norm.weight")), k_norm(tensor_or_none(weights, prefix + "k_norm.weight")),
      o_norm(tensor_or_none(weights, prefix + "o_norm.weight")) {
  if (shape.output_gate) z = linear_at(weights, prefix + "z_proj");
  slopes = lightning_slopes(shape.heads).to(q.weight.device(), island(q.weight.scalar_type()));
}

at::Tensor LightningMixer::operator()(const at::Tensor& a, const ForwardContext& context, LayerCache* cache) const {
  const RotaryTable* const rotary = shape.rope ? &context.rotary : nullptr;
  const bool in_step = context.step != nullptr, gated = z.weight.defined();
  std::vector<const Linear*> of_input = {&q, &k, &v};
  if (in_step && gated) of_input.push_back(&z);  // else it waits until it is needed
  const std::vector<at::Tensor> from_input = apply_all(a, of_input, in_step);
  const auto gate_of_input = [&] { return in_step ? from_input[3] : z(a); };
  const auto [queries, keys] = for_attention(heads_of(from_input[0], shape.head_dim), heads_of(from_input[1], shape.head_dim),
                                             q_norm, k_norm, eps, rotary, {});
  const at::Tensor values = heads_of(from_input[2], shape.head_dim);  // [N, KV, D]
  at::Tensor mixed = cache == nullptr          ? lightning_packed(queries, keys, values, slopes, shape.scale, context.segments)
                     : in_step ? lightning_attention_step_(queries, keys, values, slopes, cache->state, shape.scale)
                                               : lightning_cached(queries, keys, values, slopes, shape.scale, cache->state);
  mixed = mixed.reshape({a.size(0), shape.heads * shape.head_dim});
  const bool normed = o_norm.defined();
  if (normed && gated) mixed = gated_rms_norm(mixed, gate_of_input(), o_norm, eps);
  else if (normed) mixed = rms_norm(mixed, o_norm, eps);
  else if (gated) mixed = sigmoid_gate(gate_of_input(), mixed);
  return apply_all(mixed, {&o}, in_step)[0];
}

}  // namespace qkr
