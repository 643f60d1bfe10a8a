// SwiGLU and the sigmoid gate, forward and backward, against the same in ATen.
#include "ops/gates.h"

#include "tests/bench/rows.h"
#include "tests/bench/support.h"

namespace qkr::bench {
namespace {

using at::Tensor;

struct Problem {
  Tensor gate, x, grad;  // [N, D]

  Problem(int64_t rows, int64_t cols)
      : gate(random_bf16({rows, cols})), x(random_bf16({rows, cols})), grad(random_bf16({rows, cols})) {}
};

using Pointer = std::shared_ptr<const Problem>;

template <GateKind kKind>
Tensor fwd(const Problem& p) {
  return kKind == GateKind::kSwiglu ? swiglu(p.gate, p.x) : sigmoid_gate(p.gate, p.x);
}

template <GateKind kKind>
auto bwd(const Problem& p) {
  static const auto op = backward_op<decltype(gate_bwd_meta<kKind>)>(
      kKind == GateKind::kSwiglu ? "qk_restore::_swiglu_bwd" : "qk_restore::_sigmoid_gate_bwd");
  return op.call(p.grad, p.gate, p.x);
}

template <GateKind kKind>
Accuracy bwd_error(const Problem& p) {
  constexpr int64_t kRows = 1024;  // what fp64 copies fit beside the rest for
  Problem first = p;
  for (Tensor* t : {&first.gate, &first.x, &first.grad}) *t = t->narrow(0, 0, std::min(kRows, t->size(0)));
  const auto [dgate, dx] = bwd<kKind>(first);
  const auto [want_dgate, want_dx] =
      gate_bwd_composite<kKind>(first.grad.to(at::kDouble), first.gate.to(at::kDouble), first.x.to(at::kDouble));
  return verdict(std::max(error_of(dgate, want_dgate), error_of(dx, want_dx)));
}

template <GateKind kKind>
void add_cases_of(const std::string& name, int64_t rows, int64_t cols) {
  const std::string shape = concat("[", rows, ", ", cols, "] bf16");
  add_case(name, shape, [rows, cols] {
    const auto p = std::make_shared<const Problem>(rows, cols);
    const auto error = [p] {
      return verdict(error_of(fwd<kKind>(*p), gate_composite<kKind>(p->gate.to(at::kDouble), p->x.to(at::kDouble))));
    };
    return Case{
        {Limit::kCopy, 3.0 * static_cast<double>(p->x.nbytes())},
        {{"ours", [p] { fwd<kKind>(*p); }, error}, {"ATen composite", [p] { gate_composite<kKind>(p->gate, p->x); }}}};
  });
  add_case(name + " backward", shape, [rows, cols] {
    const auto p = std::make_shared<const Problem>(rows, cols);
    return Case{{Limit::kCopy, 5.0 * static_cast<double>(p->x.nbytes())},
                {{"ours", [p] { bwd<kKind>(*p); }, [p] { return bwd_error<kKind>(*p); }},
                 {"ATen composite", [p] { gate_bwd_composite<kKind>(p->grad, p->gate, p->x); }}}};
  });
}

}  // namespace

QKR_BENCH(gates) {
  add_cases_of<GateKind::kSwiglu>("swiglu", on_gpu() ? 16384 : 32, on_gpu() ? 12288 : 256);
  if (on_gpu()) add_cases_of<GateKind::kSwiglu>("swiglu", 32768, 6144);
  add_cases_of<GateKind::kSigmoid>("sigmoid_gate", on_gpu() ? 16384 : 32, on_gpu() ? 4096 : 256);
}

}  // namespace qkr::bench
