#include "trainer/model/mixers.h"

#include <ATen/ATen.h>

#include "trainer/model/lightning_attention.h"
#include "trainer/model/softmax_attention.h"

namespace qkr {
namespace {

// fp32 islands stay fp64 in a fp64 model, which is how the tests reach the truth.
at::ScalarType island(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

at::Tensor heads_of(const at::Tensor& x, int64_t head_dim) { return x.view({x.size(0), -1, head_dim}); }

at::Tensor maybe_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return weight.defined() ? rms_norm(x, weight, eps) : x;
}

at::Tensor tensor_or_none(const NamedTensors& weights, const std::string& name) {
  const at::Tensor* found = weights.find(name);
  return found == nullptr ? at::Tensor() : *found;
}

}  // namespace

at::Tensor Linear::operator()(const at::Tensor& x) const {
  return bias.defined() ? at::linear(x, weight, bias) : at::linear(x, weight);
}

Linear linear_at(const NamedTensors& weights, const std::string& prefix) {
  return {weights.at(prefix + ".weight"), tensor_or_none(weights, prefix + ".bias")};
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(island(x.scalar_type()));
  const at::Tensor normed = wide * at::rsqrt(wide.square().mean(-1, true) + eps);
  return normed.to(x.scalar_type()) * weight;
}

SoftmaxMixer::SoftmaxMixer(const SoftmaxShape& s, double norm_eps, const NamedTensors& weights, const std::string& prefix)
    : shape(s), eps(norm_eps), q(linear_at(weights, prefix + "q_proj")), k(linear_at(weights, prefix + "k_proj")),
      v(linear_at(weights, prefix + "v_proj")), o(linear_at(weights, prefix + "o_proj")),
      q_norm(tensor_or_none(weights, prefix + "q_norm.weight")), k_norm(tensor_or_none(weights, prefix + "k_norm.weight")) {
  if (shape.output_gate) gate = linear_at(weights, prefix + "o_gate");
}

at::Tensor SoftmaxMixer::operator()(const at::Tensor& a, const ForwardContext& context, LayerCache* cache) const {
  at::Tensor queries = maybe_norm(heads_of(q(a), shape.head_dim), q_norm, eps);  // [N, H, D]
  at::Tensor keys = maybe_norm(heads_of(k(a), shape.head_dim), k_norm, eps);     // [N, KV, D]
  const at::Tensor values = heads_of(v(a), shape.head_dim);                      // [N, KV, D]
  if (shape.rope) {
    queries = apply_rotary(queries, context.rotary);
    keys = apply_rotary(keys, context.rotary);
  }
  if (context.logits_factor.defined()) {  // the query's position decides, so cached keys need no second factor
    queries = (queries.to(context.logits_factor.scalar_type()) * context.logits_factor).to(values.scalar_type());
  }
  at::Tensor mixed = cache == nullptr
                         ? attend_packed(queries, keys, values, context.segments, shape.window)
                         : attend_cached(queries, keys, values, *cache, context.segments.past, context.cache_capacity, shape.window);
  mixed = mixed.reshape({a.size(0), shape.heads * shape.head_dim});
  if (gate.weight.defined()) mixed = mixed * gate(a).sigmoid();
  return o(mixed);
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
  at::Tensor queries = maybe_norm(heads_of(q(a), shape.head_dim), q_norm, eps);  // [N, H, D]
  at::Tensor keys = maybe_norm(heads_of(k(a), shape.head_dim), k_norm, eps);     // [N, KV, D]
  const at::Tensor values = heads_of(v(a), shape.head_dim);                      // [N, KV, D]
  if (shape.rope) {
    queries = apply_rotary(queries, context.rotary);
    keys = apply_rotary(keys, context.rotary);
  }
  at::Tensor mixed = cache == nullptr ? lightning_packed(queries, keys, values, slopes, shape.scale, context.segments)
                                      : lightning_cached(queries, keys, values, slopes, shape.scale, cache->state);
  mixed = mixed.reshape({a.size(0), shape.heads * shape.head_dim});
  mixed = maybe_norm(mixed, o_norm, eps);
  if (z.weight.defined()) mixed = mixed * z(a).sigmoid();
  return o(mixed);
}

}  // namespace qkr
