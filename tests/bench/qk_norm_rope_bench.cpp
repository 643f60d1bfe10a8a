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

}  // namespace

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
