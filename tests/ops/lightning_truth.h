// Lightning attention token by token in float64 on the CPU: the definition, and its gradients by the definition's
// adjoint.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <string>
#include <vector>

#include "ops/lightning_attention.h"

namespace qkr::test {

// The token loops are many small calls: threads would only wait for each other, and on a busy machine for minutes.
class OneThread {
 public:
  OneThread() : before_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(before_); }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

struct LightningCase {
  at::Tensor q, k, v, slopes;  // [N, H, D], [N, H_kv, D], [N, H_kv, D], [H]
  at::Tensor initial;          // [S, H, D, D]; undefined: none
  std::vector<int64_t> offsets;
  double scale = 0.25;

  std::optional<at::Tensor> initial_or_none() const {
    return initial.defined() ? std::optional<at::Tensor>(initial) : std::nullopt;
  }
  at::Tensor cu_seqlens() const { return at::tensor(offsets, at::kLong).to(q.device(), at::kInt); }
  LightningOptions options(bool accurate = true) const {
    return {.scale = scale, .accurate = accurate, .with_state = true};
  }
  // All tensors on a device in a dtype (states and slopes: fp32 at least).
  LightningCase as(at::ScalarType dtype, at::Device device) const {
    const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
    LightningCase c = *this;
    for (at::Tensor* t : {&c.q, &c.k, &c.v}) *t = t->to(device, dtype);
    for (at::Tensor* t : {&c.slopes, &c.initial}) {
      if (t->defined()) *t = t->to(device, wide);
    }
    return c;
  }
};

struct LightningShape {
  int64_t heads = 2, kv_heads = 2, dim = 8;
  std::vector<double> slopes = {0.84, 0.02};
};

// Keys and queries of RMS 1 a row, as QK-norm makes them; values and states normal. In bf16's numbers, so that every
// dtype can hold the same case.
inline LightningCase random_case(const std::vector<int64_t>& offsets, const LightningShape& s, bool initial,
                                 int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  const int64_t tokens = offsets.back(), sequences = static_cast<int64_t>(offsets.size()) - 1;
  const auto rounded = [](const at::Tensor& t) { return t.to(at::kBFloat16).to(at::kDouble); };
  const auto normed = [&](int64_t heads) {
    const at::Tensor x = at::randn({tokens, heads, s.dim}, at::kDouble);
    return rounded(x * (x.square().mean(-1, true) + 1e-12).rsqrt());
  };
  LightningCase c;
  c.q = normed(s.heads), c.k = normed(s.kv_heads);
  c.v = rounded(at::randn({tokens, s.kv_heads, s.dim}, at::kDouble));
  c.slopes = at::tensor(s.slopes, at::kFloat).to(at::kDouble);
  if (initial) c.initial = at::randn({sequences, s.heads, s.dim, s.dim}, at::kFloat).to(at::kDouble);
  c.offsets = offsets;
  return c;
}

struct LightningTruth {
  at::Tensor o, state;
};

struct LightningTruthGrads {
  at::Tensor q, k, v, initial;
};

namespace lightning_truth {

inline at::Tensor on_cpu(const at::Tensor& t) { return t.detach().cpu().to(at::kDouble); }
inline at::Tensor heads_repeated(const at::Tensor& t, int64_t heads) {
  return on_cpu(t).repeat_interleave(heads / t.size(1), 1).contiguous();
}
inline at::Tensor outer_rows(const at::Tensor& a, const at::Tensor& b) {
  return a.unsqueeze(2) * b.unsqueeze(1);
}  // [H, D, D]
inline at::Tensor times(const at::Tensor& row, const at::Tensor& m) {
  return at::matmul(row.unsqueeze(1), m).squeeze(1);
}
inline at::Tensor first_state(const LightningCase& c, int64_t s) {
  const int64_t heads = c.q.size(1), dim = c.q.size(2);
  return c.initial.defined() ? on_cpu(c.initial)[s].clone() : at::zeros({heads, dim, dim}, at::kDouble);
}
inline at::Tensor fade_of(const LightningCase& c) { return (-on_cpu(c.slopes)).exp().view({-1, 1, 1}); }

}  // namespace lightning_truth

// S_t = lambda S_{t-1} + k_t^T v_t, o_t = scale q_t S_t.
inline LightningTruth lightning_truth_of(const LightningCase& c) {
  using namespace lightning_truth;
  const int64_t heads = c.q.size(1);
  const at::Tensor q = on_cpu(c.q), k = heads_repeated(c.k, heads), v = heads_repeated(c.v, heads), fade = fade_of(c);
  LightningTruth out{at::zeros_like(q), {}};
  std::vector<at::Tensor> states;
  for (size_t i = 0; i + 1 < c.offsets.size(); ++i) {
    at::Tensor s = first_state(c, static_cast<int64_t>(i));
    for (int64_t t = c.offsets[i]; t < c.offsets[i + 1]; ++t) {
      s.mul_(fade).add_(outer_rows(k[t], v[t]));
      out.o[t].copy_(c.scale * times(q[t], s));
    }
    states.push_back(s);
  }
  out.state = states.empty() ? at::zeros({0, heads, c.q.size(2), c.q.size(2)}, at::kDouble) : at::stack(states);
  return out;
}

// With G_t the gradient of S_t: G_t = lambda G_{t+1} + scale q_t^T do_t, the last one plus grad_state;
// dq_t = scale do_t S_t^T, dk_t = v_t G_t^T, dv_t = k_t G_t, dS_0 = lambda G_1. grad_state undefined: 0.
inline LightningTruthGrads lightning_truth_grads(const LightningCase& c, const at::Tensor& grad_o,
                                                 const at::Tensor& grad_state) {
  using namespace lightning_truth;
  const int64_t heads = c.q.size(1), kv_heads = c.k.size(1);
  const at::Tensor q = on_cpu(c.q), k = heads_repeated(c.k, heads), v = heads_repeated(c.v, heads), fade = fade_of(c);
  const at::Tensor go = on_cpu(grad_o);
  LightningTruthGrads out{at::zeros_like(q), at::zeros_like(k), at::zeros_like(v), {}};
  std::vector<at::Tensor> initial;
  for (size_t i = 0; i + 1 < c.offsets.size(); ++i) {
    at::Tensor s = first_state(c, static_cast<int64_t>(i));
    for (int64_t t = c.offsets[i]; t < c.offsets[i + 1]; ++t) {
      s.mul_(fade).add_(outer_rows(k[t], v[t]));
      out.q[t].copy_(c.scale * times(go[t], s.transpose(1, 2)));
    }
    at::Tensor g = grad_state.defined() ? on_cpu(grad_state)[static_cast<int64_t>(i)].clone() : at::zeros_like(s);
    for (int64_t t = c.offsets[i + 1] - 1; t >= c.offsets[i]; --t) {
      g.add_(outer_rows(q[t], go[t]), c.scale);
      out.k[t].copy_(times(v[t], g.transpose(1, 2)));
      out.v[t].copy_(times(k[t], g));
      g.mul_(fade);
    }
    initial.push_back(g);
  }
  const auto grouped = [&](const at::Tensor& t) {
    return t.view({t.size(0), kv_heads, heads / kv_heads, t.size(2)}).sum(2);
  };
  out.k = grouped(out.k), out.v = grouped(out.v);
  if (c.initial.defined()) out.initial = at::stack(initial);
  return out;
}

inline std::string text_of(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) text += " " + std::to_string(number);
  return text;
}

}  // namespace qkr::test
