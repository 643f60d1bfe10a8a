#include "tests/bench/step/operators.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "ops/embedding.h"
#include "ops/gates.h"
#include "ops/lightning_attention.h"
#include "ops/lightning_attention_arguments.h"
#include "ops/qk_norm_rope.h"
#include "ops/rms_norm.h"
#include "ops/rms_norm_halves.h"
#include "ops/schema_handle.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/model/lightning_attention.h"
#include "trainer/model/rope.h"

namespace qkr::bench {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr double kEps = 1e-6;

// Makes the rows of the table; everything bf16 with the model's sizes.
class Maker {
 public:
  Maker(const Architecture& a, const Segments& s, at::Device device)
      : a_(a), segments_(s), bf16_(at::TensorOptions(device).dtype(at::kBFloat16)) {}

  std::vector<StepOperator> all() {
    norms();
    gates();
    heads();
    lightning();
    embedding();
    return std::move(made_);
  }

 private:
  Tensor random(at::IntArrayRef shape) const { return at::randn(shape, bf16_.dtype(at::kFloat)).to(at::kBFloat16); }
  Tensor rows(int64_t cols) const { return random({segments_.tokens(), cols}); }
  Tensor heads_of(int64_t heads, int64_t dim) const { return random({segments_.tokens(), heads, dim}); }
  std::string text(int64_t cols) const { return concat("[", segments_.tokens(), ", ", cols, "]"); }
  int64_t count(MixerKind kind) const {
    return std::count_if(a_.layers.begin(), a_.layers.end(), [kind](const Layer& l) { return l.mixer == kind; });
  }
  const Layer& first(MixerKind kind) const {
    return *std::find_if(a_.layers.begin(), a_.layers.end(), [kind](const Layer& l) { return l.mixer == kind; });
  }
  void add(const std::string& name, const std::string& shape, int64_t calls, int64_t forwards,
           std::function<void()> forward, std::function<void()> backward) {
    made_.push_back({name, shape, calls, forwards, std::move(forward), std::move(backward)});
  }
  static void norm_backward(const Tensor& grad, const OptionalTensor& grad_sum, const Tensor& h,
                            const OptionalTensor& gate, const Tensor& w) {
    schema_handle<"qk_restore::_rms_norm_bwd", decltype(rms_norm_bwd_meta)>().call(grad, grad_sum, h, gate, w, kEps);
  }

  void norms() {
    const auto layers = static_cast<int64_t>(a_.layers.size()), d = a_.hidden_size;
    const Tensor x = rows(d), y = rows(d), g = rows(d), w = random({d});
    const auto plain = [=] { rms_norm(x, w, kEps); };
    const auto plain_back = [=] { norm_backward(g, {}, x, {}, w); };
    add("rms_norm", text(d), layers, 2, plain, plain_back);
    add("rms_norm, final", text(d), 1, 1, plain, plain_back);
    add(
        "add_rms_norm", text(d), layers, 2, [=] { add_rms_norm(x, y, w, kEps); },
        [=] { norm_backward(g, y, x, {}, w); });
  }

  void gates() {
    const int64_t wide = a_.intermediate_size;
    const Tensor gate = rows(wide), x = rows(wide), g = rows(wide);
    using Backward = decltype(gate_bwd_meta<GateKind::kSwiglu>);
    add(
        "swiglu", text(wide), static_cast<int64_t>(a_.layers.size()), 2, [=] { swiglu(gate, x); },
        [=] { schema_handle<"qk_restore::_swiglu_bwd", Backward>().call(g, gate, x); });
    const SoftmaxShape& s = first(MixerKind::kSoftmax).softmax;
    const int64_t out = s.heads * s.head_dim;
    const Tensor z = rows(out), o = rows(out), go = rows(out);
    add(
        "sigmoid_gate", text(out), count(MixerKind::kSoftmax), 2, [=] { sigmoid_gate(z, o); },
        [=] { schema_handle<"qk_restore::_sigmoid_gate_bwd", Backward>().call(go, z, o); });
  }

  void pair(int64_t calls, int64_t q_heads, int64_t k_heads, int64_t dim, const OptionalTensor& cos,
            const OptionalTensor& sin) {
    const Tensor q = heads_of(q_heads, dim), k = heads_of(k_heads, dim), gq = heads_of(q_heads, dim),
                 gk = heads_of(k_heads, dim);
    const Tensor wq = random({dim}), wk = random({dim});
    add(
        concat("qk_norm_rope_pair, ", cos ? "norm+rope" : "norm"),
        concat("[", segments_.tokens(), ", ", q_heads, " + ", k_heads, ", ", dim, "]"), calls, 2,
        [=] { qk_norm_rope_pair(q, k, wq, wk, cos, sin, {}, kEps); },
        [=] {
          schema_handle<"qk_restore::_qk_norm_rope_pair_bwd", decltype(qk_norm_rope_pair_bwd_meta)>().call(
              gq, gk, q, k, wq, wk, cos, sin, {}, kEps);
        });
  }

  void heads() {
    const SoftmaxShape& s = first(MixerKind::kSoftmax).softmax;
    pair(count(MixerKind::kSoftmax), s.heads, s.kv_heads, s.head_dim, {}, {});
    const LightningShape& l = first(MixerKind::kLightning).lightning;
    const RotaryTable table = Rotary(a_, bf16_.device()).table(segments_.positions, at::kBFloat16);
    pair(count(MixerKind::kLightning), l.heads, l.kv_heads, l.head_dim, table.cos, table.sin);
  }

  void lightning() {
    const LightningShape& l = first(MixerKind::kLightning).lightning;
    const Tensor q = heads_of(l.heads, l.head_dim), k = heads_of(l.kv_heads, l.head_dim),
                 v = heads_of(l.kv_heads, l.head_dim);
    const Tensor g = heads_of(l.heads, l.head_dim), slopes = lightning_slopes(l.heads).to(bf16_.dtype(at::kFloat)),
                 cu = segments_.cu_seqlens_device;
    const double scale = l.scale;
    using Backward = LightningGrads(const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&,
                                    const Tensor&, const Tensor&, const OptionalTensor&, double, bool);
    const std::string shape = concat("[", segments_.tokens(), ", ", l.heads, ", ", l.head_dim, "]");
    add(
        "lightning_attention", shape, count(MixerKind::kLightning), 2,
        [=] { lightning_attention(q, k, v, slopes, cu, {}, {.scale = scale}); },
        [=] {
          schema_handle<"qk_restore::_lightning_attention_bwd", Backward>().call(g, {}, q, k, v, slopes, cu, {}, scale,
                                                                                 true);
        });
    const int64_t out = l.heads * l.head_dim;
    const Tensor x = rows(out), z = rows(out), go = rows(out), w = random({out});
    add(
        "gated_rms_norm", text(out), count(MixerKind::kLightning), 2, [=] { gated_rms_norm(x, z, w, kEps); },
        [=] { norm_backward(go, {}, x, z, w); });
  }

  void embedding() {
    const Tensor tokens = at::randint(a_.vocab_size, {segments_.tokens()}, bf16_.dtype(at::kLong)),
                 g = rows(a_.hidden_size);
    add("embedding_grad", concat(text(a_.hidden_size), " to ", a_.vocab_size, " rows"), 1, 0, {},
        [=, v = a_.vocab_size] { embedding_grad(g, tokens, v); });
  }

  const Architecture& a_;
  const Segments& segments_;
  at::TensorOptions bf16_;
  std::vector<StepOperator> made_;
};

}  // namespace

Architecture hypenet(bool small) {
  Architecture a;
  a.family = Family::kHypeNet;
  a.model_type = "hypenet";
  a.vocab_size = small ? 300 : 151936, a.hidden_size = small ? 32 : 2048, a.intermediate_size = small ? 64 : 6144;
  a.tied = true;
  a.rope_theta = 1e6;
  const int64_t heads = small ? 4 : 16, dim = small ? 8 : 128;
  a.rope_dim = dim;
  a.max_position = 1 << 20;
  const std::vector<int64_t> softmax = small ? std::vector<int64_t>{1} : std::vector<int64_t>{2, 3, 6, 8, 9, 21, 25};
  for (int64_t i = 0; i < (small ? 3 : 28); ++i) {
    Layer layer;
    layer.softmax = {
        .heads = heads, .kv_heads = heads / 2, .head_dim = dim, .qk_norm = true, .rope = false, .output_gate = true};
    layer.lightning = {.heads = heads,
                       .kv_heads = heads,
                       .head_dim = dim,
                       .scale = 1 / std::sqrt(static_cast<double>(dim)),
                       .qk_norm = true,
                       .rope = true,
                       .output_norm = true,
                       .output_gate = true};
    layer.mixer = std::count(softmax.begin(), softmax.end(), i) > 0 ? MixerKind::kSoftmax : MixerKind::kLightning;
    a.layers.push_back(layer);
  }
  return a;
}

std::vector<StepOperator> step_operators(const Architecture& architecture, const Segments& segments,
                                         at::Device device) {
  return Maker(architecture, segments, device).all();
}

}  // namespace qkr::bench
