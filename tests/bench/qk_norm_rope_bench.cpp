// QK-norm, RoPE and the factor per token in one pass, forward and backward, against the same in ATen.
#include "ops/qk_norm_rope.h"

#include "tests/bench/rows.h"
#include "tests/bench/support.h"

namespace qkr::bench {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr double kEps = 1e-6;

struct Steps {
  const char* name;
  bool norm, rope, factor;
};
constexpr Steps kSteps[] = {
    {"norm+rope", true, true, false}, {"norm+factor", true, false, true}, {"rope", false, true, false}};

struct Problem {
  Tensor x, grad;  // [N, H, D]
  OptionalTensor weight, cos, sin, factor;

  Problem(const Steps& steps, int64_t tokens, int64_t heads, int64_t head_dim) {
    x = random_bf16({tokens, heads, head_dim});
    grad = random_bf16({tokens, heads, head_dim});
    if (steps.norm) weight = random_bf16({head_dim});
    const Tensor angles = at::rand({tokens, head_dim / 2}, on_device(at::kFloat)) * 6.28;
    if (steps.rope) cos = angles.cos().to(at::kBFloat16), sin = angles.sin().to(at::kBFloat16);
    if (steps.factor) factor = at::rand({tokens}, on_device(at::kFloat)) + 0.5;
  }
  Problem wide() const {
    Problem p = *this;
    p.x = x.to(at::kDouble);
    p.grad = grad.to(at::kDouble);
    for (OptionalTensor* t : {&p.weight, &p.cos, &p.sin, &p.factor}) {
      if (*t) *t = (*t)->to(at::kDouble);
    }
    return p;
  }
};

using Pointer = std::shared_ptr<const Problem>;

Tensor fwd(const Problem& p) { return qk_norm_rope(p.x, p.weight, p.cos, p.sin, p.factor, kEps); }
Tensor fwd_plain(const Problem& p) { return qk_norm_rope_composite(p.x, p.weight, p.cos, p.sin, p.factor, kEps); }
auto bwd(const Problem& p) {
  static const auto op = backward_op<decltype(qk_norm_rope_bwd_meta)>("qk_restore::_qk_norm_rope_bwd");
  return op.call(p.grad, p.x, p.weight, p.cos, p.sin, p.factor, kEps);
}
auto bwd_plain(const Problem& p) {
  return qk_norm_rope_bwd_composite(p.grad, p.x, p.weight, p.cos, p.sin, p.factor, kEps);
}

Accuracy bwd_error(const Problem& p) {
  const auto [dx, dw] = bwd(p);
  const auto [want_dx, want_dw] = bwd_plain(p.wide());
  const double error = error_of(dx, want_dx);
  return verdict(p.weight ? std::max(error, error_of(dw, want_dw)) : error);
}

Case fwd_case(const Pointer& p) {
  return {{Limit::kCopy, 2.0 * static_cast<double>(p->x.nbytes())},
          {{"ours", [p] { fwd(*p); }, [p] { return verdict(error_of(fwd(*p), fwd_plain(p->wide()))); }},
           {"ATen composite", [p] { fwd_plain(*p); }}}};
}

Case bwd_case(const Pointer& p) {
  return {{Limit::kCopy, (p->weight ? 3.0 : 2.0) * static_cast<double>(p->x.nbytes())},
          {{"ours", [p] { bwd(*p); }, [p] { return bwd_error(*p); }}, {"ATen composite", [p] { bwd_plain(*p); }}}};
}

struct Shape {
  int64_t tokens, heads, head_dim;
};

// Queries and keys of a layer: the keys have neither factor nor tables of their own.
struct Layer {
  Problem q, k;

  Layer(const Steps& steps, int64_t tokens, int64_t q_heads, int64_t k_heads, int64_t head_dim)
      : q(steps, tokens, q_heads, head_dim), k({steps.name, steps.norm, false, false}, tokens, k_heads, head_dim) {
    k.cos = q.cos, k.sin = q.sin;
  }
  Layer wide() const {
    Layer l = *this;
    l.q = q.wide(), l.k = k.wide();
    return l;
  }
  double bytes() const { return static_cast<double>(q.x.nbytes() + k.x.nbytes()); }
};

auto pair_fwd(const Layer& l) {
  return qk_norm_rope_pair(l.q.x, l.k.x, l.q.weight, l.k.weight, l.q.cos, l.q.sin, l.q.factor, kEps);
}
auto pair_bwd(const Layer& l) {
  static const auto op = backward_op<decltype(qk_norm_rope_pair_bwd_meta)>("qk_restore::_qk_norm_rope_pair_bwd");
  return op.call(l.q.grad, l.k.grad, l.q.x, l.k.x, l.q.weight, l.k.weight, l.q.cos, l.q.sin, l.q.factor, kEps);
}

Accuracy pair_fwd_error(const Layer& l) {
  const auto [q, k] = pair_fwd(l);
  const Layer wide = l.wide();
  return verdict(std::max(error_of(q, fwd_plain(wide.q)), error_of(k, fwd_plain(wide.k))));
}

Accuracy pair_bwd_error(const Layer& l) {
  const auto [dq, dk, dq_weight, dk_weight] = pair_bwd(l);
  const Layer wide = l.wide();
  const auto [want_dq, want_dq_weight] = bwd_plain(wide.q);
  const auto [want_dk, want_dk_weight] = bwd_plain(wide.k);
  const double error = std::max(error_of(dq, want_dq), error_of(dk, want_dk));
  if (!l.q.weight) return verdict(error);
  return verdict(std::max({error, error_of(dq_weight, want_dq_weight), error_of(dk_weight, want_dk_weight)}));
}

Case pair_fwd_case(const std::shared_ptr<const Layer>& l) {
  return {{Limit::kCopy, 2.0 * l->bytes()},
          {{"ours", [l] { pair_fwd(*l); }, [l] { return pair_fwd_error(*l); }},
           {"two calls", [l] { fwd(l->q), fwd(l->k); }},
           {"ATen composite", [l] { fwd_plain(l->q), fwd_plain(l->k); }}}};
}

Case pair_bwd_case(const std::shared_ptr<const Layer>& l) {
  return {{Limit::kCopy, (l->q.weight ? 3.0 : 2.0) * l->bytes()},
          {{"ours", [l] { pair_bwd(*l); }, [l] { return pair_bwd_error(*l); }},
           {"two calls", [l] { bwd(l->q), bwd(l->k); }},
           {"ATen composite", [l] { bwd_plain(l->q), bwd_plain(l->k); }}}};
}

struct PairShape {
  const char* model;
  int64_t tokens, q_heads, k_heads, head_dim;
  Steps steps;
};
constexpr PairShape kModels[] = {{"HypeNet-2B softmax", 16384, 16, 8, 128, {"norm+factor", true, false, true}},
                                 {"HypeNet-2B Lightning", 16384, 16, 16, 128, {"norm+rope", true, true, false}},
                                 {"HypeNet-9B softmax", 16384, 32, 8, 128, {"norm+factor", true, false, true}},
                                 {"HypeNet-9B Lightning", 16384, 32, 32, 128, {"norm+rope", true, true, false}},
                                 {"Qwen3-8B", 16384, 32, 8, 128, {"norm+rope", true, true, false}},
                                 {"Llama-3.1-8B", 16384, 32, 8, 128, {"rope", false, true, false}}};

}  // namespace

QKR_BENCH(qk_norm_rope_pair) {
  for (const PairShape& s : kModels) {
    const int64_t tokens = on_gpu() ? s.tokens : 8;
    const std::string shape =
        concat(s.model, ": [", tokens, ", ", s.q_heads, " + ", s.k_heads, ", ", s.head_dim, "] bf16, ", s.steps.name);
    const auto layer = [=] { return std::make_shared<const Layer>(s.steps, tokens, s.q_heads, s.k_heads, s.head_dim); };
    add_case("qk_norm_rope_pair", shape, [layer] { return pair_fwd_case(layer()); });
    add_case("qk_norm_rope_pair backward", shape, [layer] { return pair_bwd_case(layer()); });
  }
}

QKR_BENCH(qk_norm_rope) {
  const std::vector<Shape> shapes = on_gpu() ? std::vector<Shape>{{16384, 32, 128}, {16384, 8, 128}, {32768, 32, 64}}
                                             : std::vector<Shape>{{32, 2, 64}};
  for (const Shape& s : shapes) {
    for (const Steps& steps : kSteps) {
      const std::string shape = concat("[", s.tokens, ", ", s.heads, ", ", s.head_dim, "] bf16, ", steps.name);
      const auto problem = [s, steps] { return std::make_shared<const Problem>(steps, s.tokens, s.heads, s.head_dim); };
      add_case("qk_norm_rope", shape, [problem] { return fwd_case(problem()); });
      add_case("qk_norm_rope backward", shape, [problem] { return bwd_case(problem()); });
    }
  }
}

}  // namespace qkr::bench
