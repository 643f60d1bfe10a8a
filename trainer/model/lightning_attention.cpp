#include "trainer/model/lightning_attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace qkr {
namespace {

constexpr int64_t kChunk = 64;  // products of 64 rows, and e^(0.84 * 63) stays far from overflow in the masked half

// Chunks never straddle a segment: token t of the row ↔ slot (chunk, place in chunk); slots past a segment's end read zeros.
struct ChunkPlan {
  int64_t chunks = 0;
  at::Tensor token_of_slot;  // [chunks * C] int64; N where a slot is empty
  at::Tensor slot_of_token;  // [N] int64
  at::Tensor hops;           // [chunks, chunks]: chunks strictly between m and n if m < n in one segment, else -1
};

ChunkPlan plan_chunks(const std::vector<int64_t>& cu_seqlens, at::Device device) {
  const int64_t tokens = cu_seqlens.back();
  ChunkPlan plan;
  std::vector<int64_t> segment_of_chunk;
  at::Tensor slot_of_token = at::empty({tokens}, at::kLong);
  int64_t* slot = slot_of_token.data_ptr<int64_t>();
  for (size_t s = 0; s + 1 < cu_seqlens.size(); ++s) {
    const int64_t length = cu_seqlens[s + 1] - cu_seqlens[s];
    const int64_t first = static_cast<int64_t>(segment_of_chunk.size()) * kChunk;
    for (int64_t t = 0; t < length; ++t) *slot++ = first + t;
    segment_of_chunk.resize(segment_of_chunk.size() + (length + kChunk - 1) / kChunk, static_cast<int64_t>(s));
  }
  plan.chunks = static_cast<int64_t>(segment_of_chunk.size());
  at::Tensor token_of_slot = at::full({plan.chunks * kChunk}, tokens, at::kLong);
  token_of_slot.index_put_({slot_of_token}, at::arange(tokens, at::kLong));
  const at::Tensor owner = at::tensor(segment_of_chunk, at::kLong).to(device);
  const at::Tensor index = at::arange(plan.chunks, at::TensorOptions(device).dtype(at::kLong));
  const at::Tensor gap = index.unsqueeze(1) - index.unsqueeze(0) - 1;
  const at::Tensor together = owner.unsqueeze(1).eq(owner.unsqueeze(0)).logical_and(gap >= 0);
  plan.hops = at::where(together, gap, at::full_like(gap, -1));
  plan.token_of_slot = token_of_slot.to(device);
  plan.slot_of_token = slot_of_token.to(device);
  return plan;
}

// x [N, H, D] → [H, chunks, C, D].
at::Tensor to_chunks(const at::Tensor& x, const ChunkPlan& plan) {
  const at::Tensor padded = at::cat({x, at::zeros({1, x.size(1), x.size(2)}, x.options())}, 0);
  return padded.index_select(0, plan.token_of_slot).view({plan.chunks, kChunk, x.size(1), x.size(2)}).permute({2, 0, 1, 3});
}

// exp(-s_h * distance) where distance >= 0, else 0; slopes [H] → [H, ...]. Masked before the exponential, which would overflow.
at::Tensor decay(const at::Tensor& slopes, const at::Tensor& distance) {
  std::vector<int64_t> shape(distance.dim() + 1, 1);
  shape[0] = slopes.size(0);
  const at::Tensor steps = distance.clamp_min(0).to(slopes.scalar_type()).unsqueeze(0);
  return at::where(distance.unsqueeze(0) >= 0, (-slopes.view(shape) * steps).exp(), at::zeros({}, slopes.options()));
}

at::Tensor range(int64_t count, const at::Tensor& like) {
  return at::arange(count, at::TensorOptions(like.device()).dtype(at::kLong));
}

// `initial` [H, D, D]: the state before the first chunk of a single segment, or undefined.
at::Tensor chunked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes, double scale,
                   const std::vector<int64_t>& cu_seqlens, const at::Tensor& initial) {
  if (q.size(0) == 0) return at::zeros_like(v);
  const ChunkPlan plan = plan_chunks(cu_seqlens, q.device());
  const int64_t heads = q.size(1), d_k = q.size(2), d_v = v.size(2);
  const at::Tensor qc = to_chunks(q, plan), kc = to_chunks(k, plan), vc = to_chunks(v, plan);  // [H, n, C, D]
  const at::Tensor place = range(kChunk, q);
  const at::Tensor within = decay(slopes, place.unsqueeze(1) - place.unsqueeze(0)).unsqueeze(1);  // [H, 1, C, C]
  at::Tensor o = at::matmul(at::matmul(qc, kc.transpose(-1, -2)) * within, vc);                     // [H, n, C, Dv]
  const at::Tensor entered = decay(slopes, place + 1).view({heads, 1, kChunk, 1});
  if (plan.chunks > 1) {
    const at::Tensor to_end = decay(slopes, kChunk - 1 - place).view({heads, 1, kChunk, 1});
    const at::Tensor added = at::matmul((kc * to_end).transpose(-1, -2), vc);  // [H, n, Dk, Dv]
    // The state that enters chunk n is a weighted sum over the earlier chunks of its segment: one product instead of a scan.
    const at::Tensor steps = at::where(plan.hops >= 0, plan.hops * kChunk, plan.hops);
    const at::Tensor state = at::matmul(decay(slopes, steps), added.reshape({heads, plan.chunks, d_k * d_v}));
    o = o + at::matmul(qc * entered, state.view({heads, plan.chunks, d_k, d_v}));
  }
  if (initial.defined()) {
    const at::Tensor aged = decay(slopes, range(plan.chunks, q) * kChunk).view({heads, plan.chunks, 1, 1});
    o = o + at::matmul(qc * entered, aged * initial.unsqueeze(1));
  }
  return (o * scale).permute({1, 2, 0, 3}).reshape({plan.chunks * kChunk, heads, d_v}).index_select(0, plan.slot_of_token);
}

std::vector<int64_t> reversed(const std::vector<int64_t>& cu_seqlens) {
  std::vector<int64_t> out;
  for (auto end = cu_seqlens.rbegin(); end != cu_seqlens.rend(); ++end) out.push_back(cu_seqlens.back() - *end);
  return out;
}

// Note [Gradients of a constant decay]
// With LA(q, k, v)_t = sum_{s <= t} lambda^(t-s) (q_t . k_s) v_s the gradients are LA itself with its arguments permuted:
//   dq = LA(do, v, k),  dk = LA_rev(v, do, q),  dv = LA_rev(k, q, do),   LA_rev: time runs backwards within each segment.
// So there is one algorithm to get right, and nothing but q, k and v is kept for the backward.
struct LightningAttention : torch::autograd::Function<LightningAttention> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const at::Tensor& slopes, double scale,
                            const std::vector<int64_t>& cu_seqlens) {
    ctx->save_for_backward({q, k, v, slopes});
    ctx->saved_data["scale"] = scale;
    ctx->saved_data["cu_seqlens"] = cu_seqlens;
    return chunked(q, k, v, slopes, scale, cu_seqlens, {});
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &slopes = saved[3];
    const double scale = ctx->saved_data["scale"].toDouble();
    const std::vector<int64_t> forward = ctx->saved_data["cu_seqlens"].toIntVector();
    const std::vector<int64_t> backward = reversed(forward);
    const at::Tensor grad_q = chunked(grads[0], v, k, slopes, scale, forward, {});
    const at::Tensor q_rev = q.flip(0), k_rev = k.flip(0), v_rev = v.flip(0), do_rev = grads[0].flip(0);
    const at::Tensor grad_k = chunked(v_rev, do_rev, q_rev, slopes, scale, backward, {}).flip(0);
    const at::Tensor grad_v = chunked(k_rev, q_rev, do_rev, slopes, scale, backward, {}).flip(0);
    return {grad_q, grad_k, grad_v, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor lightning_slopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  const auto table = [](int64_t count) {
    std::vector<double> slopes;
    for (int64_t h = 0; h < count; ++h) slopes.push_back(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(count)));
    return slopes;
  };
  std::vector<double> slopes = table(power);
  const std::vector<double> finer = table(2 * power);
  for (int64_t h = 0; static_cast<int64_t>(slopes.size()) < heads; h += 2) slopes.push_back(finer[h]);
  return at::tensor(slopes, at::kDouble);
}

at::Tensor lightning_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                               double scale, const Segments& segments) {
  return LightningAttention::apply(q, k, v, slopes, scale, segments.cu_seqlens);
}

at::Tensor lightning_attention_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& slopes, double scale, at::Tensor& state) {
  const int64_t tokens = q.size(0);
  const at::Tensor k_heads = k.transpose(0, 1), v_heads = v.transpose(0, 1);  // [H, T, D]
  if (tokens == 1) {
    const at::Tensor added = at::matmul(k_heads.transpose(-1, -2), v_heads);
    state = state.defined() ? state * (-slopes).exp().view({-1, 1, 1}) + added : added;
    return at::matmul(q.transpose(0, 1), state).transpose(0, 1) * scale;
  }
  const at::Tensor o = chunked(q, k, v, slopes, scale, {0, tokens}, state);
  const at::Tensor to_end = decay(slopes, tokens - 1 - range(tokens, q)).unsqueeze(-1);  // [H, T, 1]
  const at::Tensor added = at::matmul((k_heads * to_end).transpose(-1, -2), v_heads);
  state = state.defined() ? state * (-slopes * static_cast<double>(tokens)).exp().view({-1, 1, 1}) + added : added;
  return o;
}

}  // namespace qkr
