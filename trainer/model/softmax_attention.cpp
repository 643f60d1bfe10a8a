#include "trainer/model/softmax_attention.h"

#include <ATen/ATen.h>
#include <ATen/SDPBackend.h>

#include <algorithm>
#include <vector>

#include "trainer/model/any_algorithm.h"

namespace qkr {
namespace {

std::optional<int64_t> left_window(int64_t window) {
  return window > 0 ? std::optional<int64_t>(window - 1) : std::nullopt;
}

// [T, P + T] bool: new token i, at position past + i, sees key j.
at::Tensor causal_mask(int64_t past, int64_t count, int64_t window, at::Device device) {
  const auto options = at::TensorOptions(device).dtype(at::kLong);
  const at::Tensor query = at::arange(past, past + count, options).unsqueeze(1);
  const at::Tensor key = at::arange(past + count, options).unsqueeze(0);
  at::Tensor seen = key <= query;
  if (window > 0) seen = seen.logical_and(key > query - window);
  return seen;
}

constexpr int64_t kMaskElements = int64_t{1} << 24;

// Rows [begin, begin + count) of the T new ones: q [count, H, D], k and v all [P + T, KV, D], of which the rows see the first ones.
at::Tensor attend_rows(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t past, int64_t window) {
  const int64_t count = q.size(0), seen = past + count;
  const bool plain_causal = past == 0 && (window == 0 || window >= count);
  std::optional<at::Tensor> mask;
  if (!plain_causal && (count > 1 || window > 0)) mask = causal_mask(past, count, window, q.device());
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };  // [1, H, T, D]
  const at::Tensor o = at::scaled_dot_product_attention(heads_first(q), heads_first(k.narrow(0, 0, seen)), heads_first(v.narrow(0, 0, seen)),
                                                        mask, 0.0, plain_causal, std::nullopt, q.size(1) != k.size(1));
  return o.squeeze(0).transpose(0, 1);
}

// One segment: q [T, H, D], k and v [P + T, KV, D]. Where there is a past, rows go in groups whose masks stay small.
at::Tensor attend_dense(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
  const int64_t count = q.size(0), past = k.size(0) - count;
  const int64_t group = past == 0 ? count : std::max<int64_t>(1, kMaskElements / k.size(0));
  if (group >= count) return attend_rows(q, k, v, past, window);
  std::vector<at::Tensor> outputs;
  for (int64_t begin = 0; begin < count; begin += group) {
    outputs.push_back(attend_rows(q.narrow(0, begin, std::min(group, count - begin)), k, v, past + begin, window));
  }
  return at::cat(outputs, 0);
}

// The cache with room for `rows` rows, the first `past` of them kept.
at::Tensor with_room(const at::Tensor& cache, const at::Tensor& like, int64_t past, int64_t rows, int64_t capacity) {
  if (cache.defined() && cache.size(0) >= rows) return cache;
  const int64_t grown = std::max({rows, capacity, cache.defined() ? cache.size(0) * 3 / 2 : int64_t{0}});
  at::Tensor larger = at::empty({grown, like.size(1), like.size(2)}, like.options());
  if (past > 0) larger.narrow(0, 0, past).copy_(cache.narrow(0, 0, past));
  return larger;
}

constexpr int64_t kLongKeys = 16384, kLongQueries = 1024, kPaddedQueries = 512;

// cuDNN's kernel is 1.8 times as fast as flash attention, but takes 60 to 170 ms to prepare for a shape that it meets first.
bool cudnn_serves(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  if (!q.is_cuda() || q.size(0) < kLongQueries || k.size(0) < kLongKeys) return false;
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  const AnyAlgorithm forward_alone;  // the flag refuses cuDNN because of its backward
  return at::_fused_sdp_choice(heads_first(q), heads_first(k), heads_first(v), std::nullopt, 0.0, false, std::nullopt,
                               q.size(1) != k.size(1)) == static_cast<int64_t>(at::SDPBackend::cudnn_attention);
}

// T new queries [T, H, D] over all P + T keys. cuDNN's causal mask begins at the first key, so the past is attended to without a
// mask, the new keys with one, and the two are weighed by their sums: exp(lse) each. Rows are padded to a few sizes (a padded
// query is dropped, a padded key is behind every real query), so that few shapes are met.
at::Tensor attend_in_two(const at::Tensor& q, const at::Tensor& new_k, const at::Tensor& new_v, const at::Tensor& k, const at::Tensor& v) {
  const int64_t count = q.size(0), past = k.size(0) - count;
  const int64_t pad = (kPaddedQueries - count % kPaddedQueries) % kPaddedQueries;
  const auto padded = [pad](const at::Tensor& x) { return pad == 0 ? x : at::constant_pad_nd(x, {0, 0, 0, 0, 0, pad}); };
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  const AnyAlgorithm forward_alone;
  const auto attend = [&](const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values, bool causal) {
    auto all = at::_scaled_dot_product_cudnn_attention(heads_first(queries), heads_first(keys), heads_first(values), std::nullopt,
                                                       true, 0.0, causal);
    return std::pair<at::Tensor, at::Tensor>(std::get<0>(all), std::get<1>(all));  // [1, H, T, D]; lse [1, H, T, 1] fp32
  };
  const at::Tensor queries = padded(q);
  auto [o, lse] = attend(queries, padded(new_k), padded(new_v), true);
  if (past > 0) {
    const auto [o_past, lse_past] = attend(queries, k.narrow(0, 0, past), v.narrow(0, 0, past), false);
    o = at::lerp(o.to(at::kFloat), o_past.to(at::kFloat), at::sigmoid(lse_past - lse).view({1, q.size(1), -1, 1})).to(q.scalar_type());
  }
  return o.squeeze(0).transpose(0, 1).narrow(0, 0, count);
}

}  // namespace

bool flash_serves(at::Device device, at::ScalarType dtype, int64_t head_dim) {
  return device.is_cuda() && (dtype == at::kBFloat16 || dtype == at::kHalf) && head_dim % 8 == 0 && head_dim <= 256;
}

at::Tensor attend_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments,
                         int64_t window) {
  if (flash_serves(q.device(), q.scalar_type(), q.size(2)) && q.size(0) > 0) {
    return std::get<0>(at::_flash_attention_forward(q.contiguous(), k.contiguous(), v.contiguous(), segments.cu_seqlens_device,
                                                    segments.cu_seqlens_device, segments.longest, segments.longest, 0.0,
                                                    true, false, std::nullopt, left_window(window),
                                                    window > 0 ? std::optional<int64_t>(0) : std::nullopt));
  }
  std::vector<at::Tensor> outputs;
  for (int64_t s = 0; s < segments.count(); ++s) {
    const int64_t begin = segments.cu_seqlens[s], length = segments.cu_seqlens[s + 1] - begin;
    if (length == 0) continue;
    outputs.push_back(attend_dense(q.narrow(0, begin, length), k.narrow(0, begin, length), v.narrow(0, begin, length), window));
  }
  return outputs.empty() ? at::zeros_like(q) : outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0);
}

at::Tensor attend_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, LayerCache& cache, int64_t past,
                         int64_t capacity, int64_t window) {
  const int64_t count = q.size(0), rows = past + count;
  cache.k = with_room(cache.k, k, past, rows, capacity);
  cache.v = with_room(cache.v, v, past, rows, capacity);
  cache.k.narrow(0, past, count).copy_(k);
  cache.v.narrow(0, past, count).copy_(v);
  const at::Tensor keys = cache.k.narrow(0, 0, rows), values = cache.v.narrow(0, 0, rows);
  if (window == 0 && cudnn_serves(q, keys, values)) return attend_in_two(q, k, v, keys, values);
  if (flash_serves(q.device(), q.scalar_type(), q.size(2))) {
    // Dense flash attention aligns the causal mask at the bottom right, which is what a continued sequence needs.
    return std::get<0>(at::_flash_attention_forward(q.unsqueeze(0).contiguous(), keys.unsqueeze(0), values.unsqueeze(0),
                                                    std::nullopt, std::nullopt, count, rows, 0.0, true, false,
                                                    std::nullopt, left_window(window),
                                                    window > 0 ? std::optional<int64_t>(0) : std::nullopt))
        .squeeze(0);
  }
  return attend_dense(q, keys, values, window);
}

const char* softmax_kernel_name(at::Device device, at::ScalarType dtype, int64_t head_dim) {
  return flash_serves(device, dtype, head_dim) ? "flash attention, variable length" : "scaled_dot_product_attention, a call a sample";
}

}  // namespace qkr
