// adamw_split_() and, for more than one tensor, adamw_split_list_() against PyTorch's fused AdamW: over an fp32 weight, which is
// as exact, and all in bf16, which has no master.
#include "ops/adamw_split.h"

#include <ATen/ops/_fused_adamw.h>

#include "tests/bench/support.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {
namespace {

using at::Tensor;

struct Problem {
  int64_t tensors, elements;  // elements each
};

const AdamwOptions kOptions{.lr = 1e-5, .weight_decay = 0.1, .step = 3};

// The same numbers in every form: masters, gradients and moments.
struct Start {
  std::vector<Tensor> masters, grads, exp_avgs, exp_avg_sqs;  // fp32, bf16, fp32, fp32

  explicit Start(const Problem& p) {
    for (int64_t i = 0; i < p.tensors; ++i) {
      masters.push_back(0.02 * at::randn({p.elements}, on_device(at::kFloat)));
      grads.push_back((1e-3 * at::randn({p.elements}, on_device(at::kFloat))).to(at::kBFloat16));
      exp_avgs.push_back(1e-3 * at::randn({p.elements}, on_device(at::kFloat)));
      exp_avg_sqs.push_back(1e-6 * at::rand({p.elements}, on_device(at::kFloat)));
    }
  }
};

std::vector<Tensor> copies(const std::vector<Tensor>& tensors, at::ScalarType type) {
  std::vector<Tensor> made;
  for (const Tensor& t : tensors) made.push_back(t.to(type, false, true));
  return made;
}

// Ours on bf16 weights with split masters, or on plain fp32 weights.
struct Ours {
  std::vector<Tensor> weights, lows, grads, exp_avgs, exp_avg_sqs;

  Ours(const Start& start, bool split)
      : grads(start.grads), exp_avgs(copies(start.exp_avgs, at::kFloat)), exp_avg_sqs(copies(start.exp_avg_sqs, at::kFloat)) {
    if (!split) weights = copies(start.masters, at::kFloat);
    for (size_t i = 0; split && i < start.masters.size(); ++i) {
      const auto [high, low] = split_master(start.masters[i]);
      weights.push_back(high);
      lows.push_back(low);
    }
  }
  void step() const {
    if (weights.size() > 1) return adamw_split_list_(weights, lows, grads, exp_avgs, exp_avg_sqs, std::nullopt, kOptions);
    adamw_split_(weights[0], lows.empty() ? std::nullopt : std::optional<Tensor>(lows[0]), grads[0], exp_avgs[0], exp_avg_sqs[0],
                 std::nullopt, kOptions);
  }
  Tensor master(size_t i) const { return lows.empty() ? weights[i] : join_master(weights[i], lows[i]); }
};

struct Fused {
  std::vector<Tensor> weights, grads, exp_avgs, exp_avg_sqs, steps;

  Fused(const Start& start, at::ScalarType type)
      : weights(copies(start.masters, type)),
        grads(copies(start.grads, type)),
        exp_avgs(copies(start.exp_avgs, type)),
        exp_avg_sqs(copies(start.exp_avg_sqs, type)),
        steps(weights.size(), at::full({}, kOptions.step, on_device(at::kFloat))) {}
  void step() const {
    at::_fused_adamw_(weights, grads, exp_avgs, exp_avg_sqs, {}, steps, kOptions.lr, kOptions.beta1, kOptions.beta2,
                      kOptions.weight_decay, kOptions.eps, /*amsgrad=*/false, /*maximize=*/false);
  }
};

// One step each from the same start: on CUDA the same bits; PyTorch's CPU kernel rounds in another order.
Accuracy against_fused(const Start& start, bool split) {
  const Ours ours(start, split);
  const Fused fused(start, at::kFloat);
  ours.step();
  fused.step();
  int64_t different = 0;
  double worst = 0;
  for (size_t i = 0; i < fused.weights.size(); ++i) {
    const Tensor got = ours.master(i), want = fused.weights[i];
    different += got.ne(want).sum().item<int64_t>();
    worst = std::max(worst, ((got - want).abs().max() / want.square().mean().sqrt()).item<double>());
  }
  if (different == 0) return {"bits of fp32 AdamW"};
  return {concat("within ", scientific(worst, 0), " rms of fp32 AdamW"), !on_gpu() && worst <= 1e-6};
}

Case make(const Problem& p, bool split) {
  const auto start = std::make_shared<const Start>(p);
  const auto ours = std::make_shared<const Ours>(*start, split);
  const auto fp32 = std::make_shared<const Fused>(*start, at::kFloat), bf16 = std::make_shared<const Fused>(*start, at::kBFloat16);
  constexpr double kBytes = 26;  // bf16 weight and rest, or fp32 weight: 8 both ways; bf16 gradient 2; moments 16
  Case c{{Limit::kCopy, kBytes * static_cast<double>(p.tensors * p.elements)},
         {{"ours", [ours] { ours->step(); }, [start, split] { return against_fused(*start, split); }},
          {"fused fp32", [fp32] { fp32->step(); }}}};
  if (split) c.contenders.push_back({"fused bf16", [bf16] { bf16->step(); }, [] { return Accuracy{"no master"}; }});
  return c;
}

}  // namespace

QKR_BENCH(adamw_split) {
  const std::vector<Problem> problems = on_gpu() ? std::vector<Problem>{{1, 1 << 27}, {1, 1 << 24}, {128, 1 << 20}, {128, 1 << 12}}
                                                 : std::vector<Problem>{{1, 1 << 16}, {4, 1 << 12}};
  for (const Problem& p : problems) {
    const std::string shape = concat(p.tensors, " x ", p.elements);
    add_case(p.tensors == 1 ? "adamw_split_" : "adamw_split_list_", shape + ", bf16 + rest", [p] { return make(p, true); });
    if (p.tensors == 1) add_case("adamw_split_", shape + ", fp32", [p] { return make(p, false); });
  }
}

}  // namespace qkr::bench
