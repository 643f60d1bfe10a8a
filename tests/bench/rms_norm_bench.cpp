// Norms over rows, forward and backward, against ATen's composite and its fused RMSNorm (which has no residual and no
// gate).
#include "ops/rms_norm.h"

#include <ATen/ops/_fused_rms_norm.h>
#include <ATen/ops/_fused_rms_norm_backward.h>

#include "ops/rms_norm_halves.h"
#include "tests/bench/rows.h"
#include "tests/bench/support.h"
#include "trainer/core/error.h"

namespace qkr::bench {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr double kEps = 1e-6;

enum class Beside { kNothing, kAdded, kGate };

struct Problem {
  Tensor x, weight, beside, grad, grad_sum;  // [N, D], [D], [N, D] ...
  Beside kind;

  Problem(int64_t rows, int64_t cols, Beside beside_kind) : kind(beside_kind) {
    x = random_bf16({rows, cols});
    weight = random_bf16({cols});
    beside = random_bf16({rows, cols});
    grad = random_bf16({rows, cols});
    grad_sum = random_bf16({rows, cols});
  }
  OptionalTensor added() const { return kind == Beside::kAdded ? OptionalTensor(beside) : std::nullopt; }
  OptionalTensor gate() const { return kind == Beside::kGate ? OptionalTensor(beside) : std::nullopt; }
};

using Pointer = std::shared_ptr<const Problem>;

auto bwd(const Problem& p) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("qk_restore::_rms_norm_bwd", "")
                             .typed<decltype(rms_norm_bwd_meta)>();
  const OptionalTensor grad_sum = p.kind == Beside::kAdded ? OptionalTensor(p.grad_sum) : std::nullopt;
  return op.call(p.grad, grad_sum, p.x, p.gate(), p.weight, kEps);
}

void fwd(const Problem& p) {
  if (p.kind == Beside::kAdded) add_rms_norm(p.x, p.beside, p.weight, kEps);
  if (p.kind == Beside::kGate) gated_rms_norm(p.x, p.beside, p.weight, kEps);
  if (p.kind == Beside::kNothing) rms_norm(p.x, p.weight, kEps);
}

OptionalTensor wide(const OptionalTensor& t) { return t ? OptionalTensor(t->to(at::kDouble)) : std::nullopt; }

// Against fp64.
Accuracy fwd_error(const Problem& p) {
  const auto [y, sum] =
      rms_norm_fwd_composite(p.x.to(at::kDouble), wide(p.added()), wide(p.gate()), p.weight.to(at::kDouble), kEps);
  const Tensor got = p.kind == Beside::kAdded  ? std::get<0>(add_rms_norm(p.x, p.beside, p.weight, kEps))
                     : p.kind == Beside::kGate ? gated_rms_norm(p.x, p.beside, p.weight, kEps)
                                               : rms_norm(p.x, p.weight, kEps);
  return verdict(error_of(got, y));
}

Accuracy bwd_error(const Problem& p) {
  const OptionalTensor grad_sum = p.kind == Beside::kAdded ? OptionalTensor(p.grad_sum) : std::nullopt;
  const auto [dh, dgate, dw] = rms_norm_bwd_composite(p.grad.to(at::kDouble), wide(grad_sum), p.x.to(at::kDouble),
                                                      wide(p.gate()), p.weight.to(at::kDouble), kEps);
  const auto [got_dh, got_dgate, got_dw] = bwd(p);
  double error = std::max(error_of(got_dh, dh), error_of(got_dw, dw));
  if (p.kind == Beside::kGate) error = std::max(error, error_of(got_dgate, dgate));
  return verdict(error);
}

Case fwd_case(const Pointer& p) {
  const double reads = p->kind == Beside::kNothing ? 1 : 2, writes = p->kind == Beside::kAdded ? 2 : 1;
  Case c{{Limit::kCopy, (reads + writes) * static_cast<double>(p->x.nbytes())},
         {{"ours", [p] { fwd(*p); }, [p] { return fwd_error(*p); }},
          {"ATen composite", [p] { rms_norm_fwd_composite(p->x, p->added(), p->gate(), p->weight, kEps); }}}};
  if (p->kind == Beside::kNothing) {
    c.contenders.push_back({"torch fused", [p] { at::_fused_rms_norm(p->x, {p->x.size(1)}, p->weight, kEps); }});
  }
  return c;
}

Case bwd_case(const Pointer& p) {
  const double tensors = p->kind == Beside::kNothing ? 3 : p->kind == Beside::kAdded ? 4 : 5;
  Case c{{Limit::kCopy, tensors * static_cast<double>(p->x.nbytes())},
         {{"ours", [p] { bwd(*p); }, [p] { return bwd_error(*p); }}}};
  if (p->kind == Beside::kNothing && on_gpu()) {  // PyTorch has no kernel for a CPU
    const Tensor rstd = std::get<1>(at::_fused_rms_norm(p->x, {p->x.size(1)}, p->weight, kEps));
    c.contenders.push_back(
        {"torch fused",
         [p, rstd] { at::_fused_rms_norm_backward(p->grad, p->x, {p->x.size(1)}, rstd, p->weight, {true, true}); }});
  }
  return c;
}

}  // namespace

QKR_BENCH(rms_norm) {
  const std::vector<std::pair<int64_t, int64_t>> sizes =
      on_gpu() ? std::vector<std::pair<int64_t, int64_t>>{{16384, 4096}, {32768, 2048}}
               : std::vector<std::pair<int64_t, int64_t>>{{64, 256}};
  for (const auto& [rows, cols] : sizes) {
    for (const auto& [name, kind] : {std::pair{"rms_norm", Beside::kNothing},
                                     {"add_rms_norm", Beside::kAdded},
                                     {"gated_rms_norm", Beside::kGate}}) {
      const std::string shape = concat("[", rows, ", ", cols, "] bf16");
      add_case(name, shape, [rows = rows, cols = cols, kind = kind] {
        return fwd_case(std::make_shared<const Problem>(rows, cols, kind));
      });
      add_case(concat(name, " backward"), shape, [rows = rows, cols = cols, kind = kind] {
        return bwd_case(std::make_shared<const Problem>(rows, cols, kind));
      });
    }
  }
}

}  // namespace qkr::bench
