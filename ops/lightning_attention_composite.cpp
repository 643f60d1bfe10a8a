#include "ops/lightning_attention_composite.h"

#include <ATen/ATen.h>

#include <utility>
#include <vector>

namespace qkr {
namespace {

using at::Tensor;

constexpr int64_t kChunk = 64;

// One sweep over the tokens as in csrc/lightning/pass.h: the forward is one, the backward three.
struct Sweep {
  Tensor q, k, v;     // [N, H, D]
  Tensor slopes;      // [H] of their type
  Tensor cu_seqlens;  // [S + 1] int64
  Tensor initial{};   // [S, H, D, D]; undefined: 0
  double intra = 1, inter = 1, added = 1;
  int64_t lag = 1;
};

// Chunks never straddle a sequence: token t of the row <-> slot (chunk, place in chunk); empty slots read zeros. There
// are at most N / C + S chunks, and so many are computed: their true number is known to the device alone.
struct ChunkPlan {
  int64_t chunks = 0;
  Tensor token_of_slot;  // [chunks * C]; N where a slot is empty
  Tensor slot_of_token;  // [N]
  Tensor owner;          // [chunks] the sequence; S for chunks that are not used
  Tensor index;          // [chunks] number within the sequence
  Tensor after;          // [N] tokens of its sequence that follow
  Tensor lengths;        // [S]
};

Tensor range(int64_t count, const Tensor& like) {
  return at::arange(count, at::TensorOptions(like.device()).dtype(at::kLong));
}

ChunkPlan plan_chunks(const Tensor& cu_seqlens, int64_t tokens) {
  const int64_t sequences = cu_seqlens.size(0) - 1;
  const Tensor begins = cu_seqlens.narrow(0, 0, sequences), ends = cu_seqlens.narrow(0, 1, sequences).contiguous();
  ChunkPlan plan;
  plan.chunks = tokens / kChunk + sequences;
  plan.lengths = ends - begins;
  const Tensor counts = (plan.lengths + (kChunk - 1)).div(kChunk, "floor");
  const Tensor chunk_ends = counts.cumsum(0), first_chunk = chunk_ends - counts;
  const Tensor token = range(tokens, cu_seqlens), chunk = range(plan.chunks, cu_seqlens);
  const Tensor sequence =
      at::searchsorted(ends, token, /*out_int32=*/false, /*right=*/true);  // the first that ends behind it
  plan.after = ends.index_select(0, sequence) - 1 - token;
  plan.slot_of_token = first_chunk.index_select(0, sequence) * kChunk + token - begins.index_select(0, sequence);
  plan.token_of_slot = at::full({plan.chunks * kChunk}, tokens, token.options()).scatter(0, plan.slot_of_token, token);
  plan.owner = at::searchsorted(chunk_ends, chunk, /*out_int32=*/false, /*right=*/true);
  plan.index = chunk - first_chunk.index_select(0, plan.owner.clamp_max(sequences - 1));
  return plan;
}

// x [N, H, D] -> [H, chunks, C, D].
Tensor to_chunks(const Tensor& x, const ChunkPlan& plan) {
  const Tensor padded = at::cat({x, at::zeros({1, x.size(1), x.size(2)}, x.options())}, 0);
  return padded.index_select(0, plan.token_of_slot)
      .view({plan.chunks, kChunk, x.size(1), x.size(2)})
      .permute({2, 0, 1, 3});
}

// exp(-s_h * distance) where distance >= 0, else 0; slopes [H] -> [H, ...]. Masked before the exponential, which would
// overflow.
Tensor decay(const Tensor& slopes, const Tensor& distance) {
  std::vector<int64_t> shape(distance.dim() + 1, 1);
  shape[0] = slopes.size(0);
  const Tensor steps = distance.clamp_min(0).to(slopes.scalar_type()).unsqueeze(0);
  return at::where(distance.unsqueeze(0) >= 0, (-slopes.view(shape) * steps).exp(), at::zeros({}, slopes.options()));
}

// The state that enters each chunk, [H, chunks, D, D]: a weighted sum over the earlier chunks of its sequence, by one
// product instead of a scan.
Tensor entering_states(const Sweep& s, const ChunkPlan& plan, const Tensor& kc, const Tensor& vc) {
  const int64_t heads = kc.size(0), dim = kc.size(3);
  const Tensor to_end = decay(s.slopes, kChunk - s.lag - range(kChunk, kc)).view({heads, 1, kChunk, 1});
  const Tensor sums = at::matmul((kc * to_end).transpose(-1, -2), vc) * s.added;  // [H, chunks, D, D]
  const Tensor chunk = range(plan.chunks, kc);
  const Tensor between = chunk.unsqueeze(1) - chunk.unsqueeze(0) - 1;
  const Tensor related = plan.owner.unsqueeze(1).eq(plan.owner.unsqueeze(0)).logical_and(between >= 0);
  const Tensor steps = at::where(related, between * kChunk, at::full_like(between, -1));
  Tensor state = at::matmul(decay(s.slopes, steps), sums.reshape({heads, plan.chunks, dim * dim}));
  state = state.view({heads, plan.chunks, dim, dim});
  if (!s.initial.defined()) return state;
  const Tensor aged = decay(s.slopes, plan.index.clamp_min(0) * kChunk).view({heads, plan.chunks, 1, 1});
  const Tensor own = s.initial.index_select(0, plan.owner.clamp_max(s.initial.size(0) - 1)).transpose(0, 1);
  return state + aged * own;
}

Tensor leaving_states(const Sweep& s, const ChunkPlan& plan, const Tensor& vc) {
  const int64_t heads = vc.size(0), dim = vc.size(3), sequences = plan.lengths.size(0);
  const Tensor kept = decay(s.slopes, plan.after + 1 - s.lag).transpose(0, 1).unsqueeze(-1);  // [N, H, 1]
  const Tensor sums = at::matmul(to_chunks(s.k * kept, plan).transpose(-1, -2), vc) * s.added;
  const Tensor mine =
      range(sequences, vc).unsqueeze(1).eq(plan.owner.unsqueeze(0)).to(vc.scalar_type());  // [S, chunks]
  Tensor state = at::matmul(mine, sums.reshape({heads, plan.chunks, dim * dim})).view({heads, sequences, dim, dim});
  state = state.transpose(0, 1);
  if (s.initial.defined())
    state = state + decay(s.slopes, plan.lengths).transpose(0, 1).unsqueeze(-1).unsqueeze(-1) * s.initial;
  return state.contiguous();
}

// {o [N, H, D], state [S, H, D, D] or undefined}.
std::pair<Tensor, Tensor> run(const Sweep& s, bool with_state) {
  const int64_t tokens = s.q.size(0), heads = s.q.size(1), dim = s.q.size(2), sequences = s.cu_seqlens.size(0) - 1;
  if (tokens == 0 || heads == 0) {
    const Tensor state =
        s.initial.defined() ? s.initial.clone() : at::zeros({sequences, heads, dim, dim}, s.q.options());
    return {at::zeros(s.q.sizes(), s.q.options()), state};
  }
  const ChunkPlan plan = plan_chunks(s.cu_seqlens, tokens);
  const Tensor qc = to_chunks(s.q, plan), kc = to_chunks(s.k, plan), vc = to_chunks(s.v, plan);  // [H, chunks, C, D]
  const Tensor place = range(kChunk, s.q);
  const Tensor within = decay(s.slopes, place.unsqueeze(1) - place.unsqueeze(0)).unsqueeze(1);  // [H, 1, C, C]
  Tensor o = at::matmul(at::matmul(qc, kc.transpose(-1, -2)) * within, vc) * s.intra;           // [H, chunks, C, D]
  if (plan.chunks > 1 || s.initial.defined()) {
    const Tensor entered = decay(s.slopes, place + s.lag).view({heads, 1, kChunk, 1});
    o = o + at::matmul(qc * entered, entering_states(s, plan, kc, vc)) * s.inter;
  }
  o = o.permute({1, 2, 0, 3}).reshape({plan.chunks * kChunk, heads, dim}).index_select(0, plan.slot_of_token);
  return {o, with_state ? leaving_states(s, plan, vc) : Tensor()};
}

at::ScalarType working_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

Tensor worked(const Tensor& x) { return x.to(working_type(x)); }

Tensor maybe_flipped(const Tensor& x, bool flip) { return flip && x.defined() ? x.flip(0) : x; }

}  // namespace

Tensor repeat_heads(const Tensor& x, int64_t heads) {
  return x.size(1) == heads ? x : x.repeat_interleave(heads / x.size(1), 1);
}

Tensor sum_repeated_heads(const Tensor& grad, int64_t kv_heads) {
  if (grad.size(1) == kv_heads) return grad;
  return grad.view({grad.size(0), kv_heads, grad.size(1) / kv_heads, grad.size(2)}).sum(2);
}

LightningResult lightning_composite(const LightningArguments& a, bool with_state) {
  check_lightning(a);
  const int64_t heads = a.q.size(1);
  Sweep sweep{worked(a.q), repeat_heads(worked(a.k), heads), repeat_heads(worked(a.v), heads), a.slopes,
              a.cu_seqlens.to(at::kLong)};
  if (a.has_initial()) sweep.initial = *a.initial_state;
  sweep.intra = sweep.inter = a.scale;
  auto [o, state] = run(sweep, with_state);
  if (!with_state) state = at::empty({0, heads, a.q.size(2), a.q.size(2)}, sweep.q.options());
  return {o.to(a.q.scalar_type()), state};
}

// Note [Gradients of a constant decay] in csrc/lightning/params.h.
LightningGrads lightning_composite_grad(const Tensor& grad_o, const std::optional<Tensor>& grad_state,
                                        const LightningArguments& a) {
  check_lightning_grad(grad_o, grad_state, a);
  const int64_t heads = a.q.size(1), kv_heads = a.k.size(1), dim = a.q.size(2);
  const Tensor q = worked(a.q), k = repeat_heads(worked(a.k), heads), v = repeat_heads(worked(a.v), heads);
  const Tensor go = worked(grad_o), cu_seqlens = a.cu_seqlens.to(at::kLong);
  const Tensor gs = grad_state.has_value() && grad_state->defined() ? *grad_state : Tensor();
  Sweep of_q{go, v, k, a.slopes, cu_seqlens};
  of_q.intra = of_q.inter = a.scale;
  if (a.has_initial()) of_q.initial = a.initial_state->transpose(-1, -2);
  const Tensor grad_q = run(of_q, false).first;
  // time runs backwards in these two, and the sequences come last to first
  const auto backwards = [&](const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& initial) {
    Sweep sweep{query.flip(0), key.flip(0), value.flip(0), a.slopes, q.size(0) - cu_seqlens.flip(0)};
    sweep.initial = maybe_flipped(initial, true);
    sweep.intra = sweep.added = a.scale, sweep.inter = 1, sweep.lag = 0;
    return sweep;
  };
  const Tensor grad_k = run(backwards(v, go, q, gs.defined() ? gs.transpose(-1, -2) : gs), false).first.flip(0);
  const auto [grad_v, grad_initial] = run(backwards(k, q, go, gs), a.has_initial());
  const auto as_kv = [&](const Tensor& grad) { return sum_repeated_heads(grad, kv_heads).to(a.k.scalar_type()); };
  return {grad_q.to(a.q.scalar_type()), as_kv(grad_k), as_kv(grad_v.flip(0)),
          a.has_initial() ? grad_initial.flip(0) : at::empty({0, heads, dim, dim}, q.options())};
}

Tensor lightning_composite_step(const LightningStepArguments& a) {
  check_lightning_step(a);
  const int64_t heads = a.q.size(1);
  const Tensor k = repeat_heads(worked(a.k), heads), v = repeat_heads(worked(a.v), heads);
  a.state.mul_((-a.slopes).exp().view({1, -1, 1, 1})).add_(k.unsqueeze(3) * v.unsqueeze(2));
  const Tensor o = at::matmul(worked(a.q).unsqueeze(2), a.state).squeeze(2) * a.scale;
  return o.to(a.q.scalar_type());
}

}  // namespace qkr
