#include "trainer/restore/head_gauge.h"

#include <ATen/ATen.h>

#include <map>
#include <vector>

#include "trainer/core/error.h"

namespace qkr {
namespace {

using at::Tensor;

// Coordinates with equal values share a number.
Tensor classes_of(const Tensor& values) {
  const Tensor flat = values.to(at::kDouble).cpu().contiguous();
  Tensor classes = at::empty(flat.sizes(), at::kLong);
  std::map<double, int64_t> numbers;
  for (int64_t i = 0; i < flat.size(0); ++i) {
    const double value = flat.const_data_ptr<double>()[i];
    classes.data_ptr<int64_t>()[i] = numbers.emplace(value, static_cast<int64_t>(numbers.size())).first->second;
  }
  return classes;
}

// x [KV, D, columns] of all rows that belong to a KV head: K's own, and those of each Q head that reads it, side by side.
Tensor by_group(const Tensor& w, int64_t kv_heads, int64_t dim) {
  return w.reshape({kv_heads, -1, dim, w.size(1)}).transpose(1, 2).reshape({kv_heads, dim, -1});
}

Tensor sign_of(const Tensor& x) { return at::where(x < 0, at::full_like(x, -1), at::ones_like(x)); }

// A class at a time: the polar factor of M's block.
HeadAlignment align_classes(const Tensor& m, const Tensor& gain_class) {
  HeadAlignment out{at::diag_embed(sign_of(m.diagonal(0, 1, 2))), std::nullopt};
  const int64_t classes = gain_class.max().item<int64_t>() + 1;
  for (int64_t one = 0; one < classes; ++one) {
    const Tensor where = (gain_class == one).nonzero().squeeze(1).to(m.device());
    if (where.size(0) == 1) continue;
    const Tensor block = m.index_select(1, where).index_select(2, where);  // [KV, n, n]
    const auto [r, certificate] = polar(block.contiguous(), 0.0);
    out.a.index_put_({at::arange(m.size(0), where.options()).view({-1, 1, 1}), where.view({1, -1, 1}), where.view({1, 1, -1})}, r);
    for (int64_t group = 0; group < m.size(0); ++group) {
      const PolarCertificate found = read_certificate(certificate[group]);
      if (!out.certificate || !(found.gap_bound <= out.certificate->gap_bound)) out.certificate = found;
    }
  }
  return out;
}

// M_11 + M_22 = r cos phi and M_21 - M_12 = r sin phi over each pair; without the sine, phi is 0 or pi.
HeadAlignment align_pairs(const Tensor& m, const Tensor& pair_is_free) {
  const int64_t half = m.size(1) / 2;
  const Tensor diagonal = m.diagonal(0, 1, 2);
  const Tensor cosine = diagonal.narrow(1, 0, half) + diagonal.narrow(1, half, half);  // [KV, D/2]
  const Tensor sine = (m.diagonal(-half, 1, 2) - m.diagonal(half, 1, 2)) * pair_is_free.to(m.device());
  const Tensor phase = at::atan2(sine, cosine);
  const Tensor c = phase.cos(), s = at::where(sine == 0, at::zeros_like(sine), phase.sin());
  Tensor a = at::diag_embed(at::cat({c, c}, 1)) + at::diag_embed(s, -half) - at::diag_embed(s, half);
  return {a, std::nullopt};
}

}  // namespace

HeadGauge head_gauge(const MixerLayer& layer, const Tensor& g_q, const Tensor& g_k) {
  const bool norm = g_q.defined() && g_k.defined();
  if (layer.rope) {
    const int64_t half = layer.head_dim / 2;
    Tensor is_free = at::ones({half}, at::kBool);
    for (const Tensor& gain : {g_q, g_k}) {
      if (gain.defined()) is_free = is_free.logical_and((gain.narrow(0, 0, half) == gain.narrow(0, half, half)).cpu());
    }
    return {true, {}, is_free, 2 * is_free.count_nonzero().item<int64_t>()};
  }
  const Tensor product = norm ? g_q.to(at::kDouble) * g_k.to(at::kDouble) : at::ones({layer.head_dim}, at::kDouble);
  const Tensor classes = classes_of(product);
  const Tensor sizes = at::bincount(classes);
  return {false, classes, {}, at::where(sizes > 1, sizes, at::zeros_like(sizes)).sum().item<int64_t>()};
}

std::string gauge_refusal(const MixerLayer& layer, const Tensor& g_q, const Tensor& g_k) {
  const std::string place = concat("layer ", layer.layer);
  if (layer.qk_activation) return place + " has an activation between its q and k projections and their product, which no rotation of a head passes";
  if (layer.rope && layer.head_dim % 2 != 0) return concat(place, " has RoPE on heads of odd size ", layer.head_dim);
  if (g_q.defined() != g_k.defined()) return place + " has a norm behind one of q and k alone";
  if (head_gauge(layer, g_q, g_k).free_coordinates > 0) return "";
  return place + (layer.rope ? " has RoPE and QK-norm gains that differ within every pair, so that only signs leave its logits alone"
                             : " has QK-norm gains whose products all differ, so that only signs leave its logits alone");
}

HeadAlignment align_heads(const Tensor& q_pre, const Tensor& q_post, const Tensor& k_pre, const Tensor& k_post, int64_t kv_heads,
                          const HeadGauge& gauge) {
  const int64_t dim = k_pre.size(0) / kv_heads;
  const auto product = [&](const Tensor& post, const Tensor& pre) {
    return at::bmm(by_group(post, kv_heads, dim), by_group(pre, kv_heads, dim).transpose(1, 2));
  };
  const Tensor m = product(k_post, k_pre) + product(q_post, q_pre);  // [KV, D, D]
  return gauge.rope ? align_pairs(m, gauge.pair_is_free) : align_classes(m, gauge.gain_class);
}

Tensor turn_heads(const Tensor& a, const Tensor& w) {
  const int64_t kv_heads = a.size(0), dim = a.size(1);
  const Tensor heads = w.reshape({kv_heads, -1, dim, w.size(1)});  // [KV, heads, D, columns]
  return at::matmul(a.unsqueeze(1), heads).reshape(w.sizes());
}

}  // namespace qkr
