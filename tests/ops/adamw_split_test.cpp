#include "ops/adamw_split.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

struct State {
  Tensor master;  // fp32
  Tensor exp_avg, exp_avg_sq;
};

State random_state(at::IntArrayRef shape, at::Device device) {
  return {at::randn(shape).to(device), (at::randn(shape) * 1e-2).to(device), (at::rand(shape) * 1e-4).to(device)};
}

// PyTorch's own fused AdamW in fp32, in place.
void fused_reference(State& s, const Tensor& grad, const AdamwOptions& o) {
  const Tensor step = at::full({}, static_cast<double>(o.step), s.master.options());
  at::_fused_adamw_(s.master, grad, s.exp_avg, s.exp_avg_sq, at::TensorList{}, step, o.lr, o.beta1, o.beta2,
                    o.weight_decay, o.eps,
                    /*amsgrad=*/false, /*maximize=*/false);
}

State clone(const State& s) { return {s.master.clone(), s.exp_avg.clone(), s.exp_avg_sq.clone()}; }

// The update by the paper's formula in float64, from rounded options and inputs.
State truth(const State& s, const Tensor& grad, const AdamwOptions& o) {
  const auto fp32 = [](double x) { return static_cast<double>(static_cast<float>(x)); };
  const double lr = fp32(o.lr), beta1 = fp32(o.beta1), beta2 = fp32(o.beta2), decay = fp32(o.weight_decay),
               eps = fp32(o.eps);
  const Tensor g = grad.to(at::kDouble);
  Tensor w = s.master.to(at::kDouble) * (1 - lr * decay);
  const Tensor m = s.exp_avg.to(at::kDouble) * beta1 + g * (1 - beta1);
  const Tensor v = s.exp_avg_sq.to(at::kDouble) * beta2 + g * g * (1 - beta2);
  w = w - lr / (1 - std::pow(beta1, o.step)) * m / (v.sqrt() / std::sqrt(1 - std::pow(beta2, o.step)) + eps);
  return {w, m, v};
}

class AdamwSplit : public test::DeviceTest {
 protected:
  AdamwOptions options() const {
    return {.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 1};
  }
};

constexpr int64_t kOddSizes[] = {0, 1, 3, 31, 4099, 100003};

TEST_P(AdamwSplit, Fp32WeightsAreAsAccurateAsFusedAdamw) {
  at::manual_seed(1);
  for (const int64_t n : kOddSizes) {
    if (n == 0) continue;
    State got = random_state({n}, device()), fused = clone(got), want = clone(got);
    for (AdamwOptions o = options(); o.step <= 5; ++o.step) {
      const Tensor grad = here(at::randn({n}) * 1e-2);
      const State start = clone(got);
      want = truth(start, grad, o);
      fused = clone(start);
      fused_reference(fused, grad, o);
      adamw_split_(got.master, {}, grad, got.exp_avg, got.exp_avg_sq, {}, o);
      test::expect_as_accurate(got.master, fused.master, want.master);
      test::expect_as_accurate(got.exp_avg, fused.exp_avg, want.exp_avg);
      test::expect_as_accurate(got.exp_avg_sq, fused.exp_avg_sq, want.exp_avg_sq);
    }
  }
}

// On CUDA the same bits as PyTorch's kernel, over many steps. PyTorch's CPU loop rounds in another order (a lerp, bias
// corrections in double, a rounded 1 - lr weight_decay), so there each step starts from its state, and the master may differ by
// two ulps of itself and four of the update without cancellation in m; betas that fp32 holds exactly make the rest comparable.
TEST_P(AdamwSplit, MasterEqualsFusedAdamwOfPyTorch) {
  at::manual_seed(2);
  for (const int64_t n : kOddSizes) {
    if (n == 0) continue;
    AdamwOptions o = options();
    if (!on_cuda()) o.beta1 = 0.875, o.beta2 = 0.96875;
    State fused = random_state({n}, device()), got = clone(fused);
    auto [weight, low] = split_master(got.master);
    for (; o.step <= 20; ++o.step) {
      const Tensor grad = here(at::randn({n}) * 1e-2).to(at::kBFloat16);
      const State before = clone(fused);
      fused_reference(fused, grad.to(at::kFloat), o);
      adamw_split_(weight, low, grad, got.exp_avg, got.exp_avg_sq, {}, o);
      const Tensor master = join_master(weight, low);
      if (on_cuda()) {
        ASSERT_TRUE(same_bytes(master, fused.master)) << "n " << n << ", step " << o.step;
        ASSERT_TRUE(same_bytes(got.exp_avg, fused.exp_avg));
        ASSERT_TRUE(same_bytes(got.exp_avg_sq, fused.exp_avg_sq));
        continue;
      }
      const Tensor largest_m = before.exp_avg.abs() + grad.to(at::kFloat).abs();
      const Tensor largest_update = o.lr / (1 - std::pow(o.beta1, o.step)) * largest_m /
                                    (fused.exp_avg_sq / (1 - std::pow(o.beta2, o.step))).sqrt();
      const Tensor bound = (2 * before.master.abs() + 4 * largest_update) * 0x1p-23;
      ASSERT_LE(((master - fused.master).abs() / bound).max().item<double>(), 1) << "n " << n << ", step " << o.step;
      got = clone(fused);
      std::tie(weight, low) = split_master(got.master);
    }
  }
}

TEST_P(AdamwSplit, SplitMasterEqualsFp32WeightsBitForBit) {
  at::manual_seed(3);
  for (const int64_t n : kOddSizes) {
    for (const at::ScalarType grad_type : {at::kBFloat16, at::kFloat}) {
      State plain = random_state({n}, device()), split = clone(plain);
      auto [weight, low] = split_master(plain.master);
      for (AdamwOptions o = options(); o.step <= 10; ++o.step) {
        const Tensor grad = here(at::randn({n}) * 1e-2).to(grad_type);
        adamw_split_(plain.master, {}, grad, plain.exp_avg, plain.exp_avg_sq, {}, o);
        adamw_split_(weight, low, grad, split.exp_avg, split.exp_avg_sq, {}, o);
      }
      EXPECT_TRUE(same_bytes(join_master(weight, low), plain.master));
      EXPECT_TRUE(same_bytes(split.exp_avg_sq, plain.exp_avg_sq));
      const auto [weight_again, low_again] = split_master(plain.master);  // the kernel's halves are the helper's halves
      EXPECT_TRUE(same_bytes(weight, weight_again));
      EXPECT_TRUE(same_bytes(low, low_again));
    }
  }
}

TEST_P(AdamwSplit, ClipScaleMultipliesTheGradient) {
  at::manual_seed(4);
  State a = random_state({1000}, device()), b = clone(a);
  const Tensor grad = here(at::randn({1000})), scale = here(at::full({1}, 0.37f));
  adamw_split_(a.master, {}, grad, a.exp_avg, a.exp_avg_sq, scale, options());
  adamw_split_(b.master, {}, grad * scale, b.exp_avg, b.exp_avg_sq, {}, options());
  EXPECT_TRUE(same_bytes(a.master, b.master));
  EXPECT_TRUE(same_bytes(a.exp_avg_sq, b.exp_avg_sq));
}

TEST_P(AdamwSplit, TransposedGradientAndUnalignedWeightsGiveTheSame) {
  at::manual_seed(5);
  const Tensor grad = here(at::randn({33, 65}) * 1e-2);
  State a = random_state({33, 65}, device());
  // the same numbers one element into a buffer: no vector load may assume alignment
  const auto shifted = [](const Tensor& t) {
    Tensor view = at::empty({t.numel() + 1}, t.options()).narrow(0, 1, t.numel()).view(t.sizes());
    return view.copy_(t);
  };
  State b = {shifted(a.master), shifted(a.exp_avg), shifted(a.exp_avg_sq)};
  adamw_split_(a.master, {}, grad.t().contiguous().t(), a.exp_avg, a.exp_avg_sq, {}, options());
  adamw_split_(b.master, {}, grad, b.exp_avg, b.exp_avg_sq, {}, options());
  EXPECT_TRUE(same_bytes(a.master, b.master));
  EXPECT_TRUE(same_bytes(a.exp_avg, b.exp_avg));
}

TEST_P(AdamwSplit, LearningRateZeroLeavesEveryBit) {
  AdamwOptions o = options();
  o.lr = 0;
  State s = random_state({4099}, device());
  auto [weight, low] = split_master(s.master);
  adamw_split_(weight, low, here(at::randn({4099})), s.exp_avg, s.exp_avg_sq, {}, o);
  EXPECT_TRUE(same_bytes(join_master(weight, low), s.master));
}

TEST_P(AdamwSplit, WeightMayRequireGradAndItsVersionMoves) {
  State s = random_state({8}, device());
  Tensor weight = s.master.clone().requires_grad_(true);
  const auto version = weight._version();
  adamw_split_(weight, {}, here(at::randn({8})), s.exp_avg, s.exp_avg_sq, {}, options());
  EXPECT_GT(weight._version(), version);
  EXPECT_FALSE(same_bytes(weight, s.master));
  const std::string message = QKR_MESSAGE_OF(
      adamw_split_(weight, {}, here(at::randn({8})).requires_grad_(true), s.exp_avg, s.exp_avg_sq, {}, options()));
  EXPECT_NE(message.find("adamw_split_: grad must not require grad"), std::string::npos) << message;
}

TEST_P(AdamwSplit, ErrorsNameArgumentRuleAndValue) {
  State s = random_state({4, 2}, device());
  auto [weight, low] = split_master(s.master);
  const Tensor grad = here(at::zeros({4, 2}));
  const auto message = [&](const std::function<void()>& call) { return QKR_MESSAGE_OF(call()); };
  const auto expect = [&](const std::string& want, const std::function<void()>& call) {
    EXPECT_NE(message(call).find(want), std::string::npos) << message(call);
  };
  const AdamwOptions o = options();
  expect("adamw_split_: master_low must be given for bf16 weights and for no others, got none for BFloat16",
         [&, w = weight] { adamw_split_(w, {}, grad, s.exp_avg, s.exp_avg_sq, {}, o); });
  expect("adamw_split_: grad must have shape [4, 2], got [2, 4]",
         [&, w = weight, l = low] { adamw_split_(w, l, grad.t(), s.exp_avg, s.exp_avg_sq, {}, o); });
  expect("adamw_split_: exp_avg must be Float, got Double",
         [&, w = weight, l = low] { adamw_split_(w, l, grad, s.exp_avg.to(at::kDouble), s.exp_avg_sq, {}, o); });
  expect("adamw_split_: weight must be contiguous, got strides [1, 4]",
         [&, w = at::empty({2, 4}, grad.options()).t()] { adamw_split_(w, {}, grad, s.exp_avg, s.exp_avg_sq, {}, o); });
  expect("adamw_split_: clip_scale must have one element, got 2",
         [&, w = weight, l = low] { adamw_split_(w, l, grad, s.exp_avg, s.exp_avg_sq, here(at::ones({2})), o); });
  expect("adamw_split_: step must be at least 1, got 0", [&, w = weight, l = low, zero = AdamwOptions{.step = 0}] {
    adamw_split_(w, l, grad, s.exp_avg, s.exp_avg_sq, {}, zero);
  });
}

TEST_P(AdamwSplit, SplitAndJoinAreExact) {
  // every pattern of the upper 16 bits, with the remainders around the rounding edge
  const Tensor high = at::arange(0, 65536, at::kLong).view({-1, 1}) * 65536;
  const Tensor rest = at::tensor({0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff}, at::kLong).view({1, -1});
  const Tensor patterns = high + rest;
  const Tensor bits = at::where(patterns >= 0x80000000LL, patterns - 0x100000000LL, patterns).to(at::kInt);
  const Tensor master = here(bits.contiguous().view(at::kFloat));
  const auto [weight, low] = split_master(master);
  const Tensor back = join_master(weight, low);
  const Tensor nan = master.isnan();
  EXPECT_GT(nan.sum().item<int64_t>(), 0);
  EXPECT_TRUE(same_bytes(back.masked_select(nan.logical_not()), master.masked_select(nan.logical_not())));
  EXPECT_TRUE(back.masked_select(nan).isnan().all().item<bool>());
  EXPECT_TRUE(weight.masked_select(nan).isnan().all().item<bool>())
      << "a NaN must not show as a number in the bf16 weight";
  // the weight is the nearest bf16 (ties away from zero)
  const Tensor finite = weight.isfinite();
  const Tensor error = (weight.to(at::kDouble) - master.to(at::kDouble)).abs().masked_select(finite);
  const Tensor nearest =
      (master.to(at::kBFloat16).to(at::kDouble) - master.to(at::kDouble)).abs().masked_select(finite);
  EXPECT_TRUE(at::equal(error, nearest));
}

// The kernel's own split sees the same patterns: an update that changes nothing reads and writes each one. (A GPU's arithmetic
// keeps no NaN's payload, so NaNs are left out.)
TEST_P(AdamwSplit, KernelKeepsEveryPattern) {
  const Tensor patterns = at::arange(0, 1LL << 32, 4099, at::kLong);
  const Tensor bits = at::where(patterns >= 0x80000000LL, patterns - 0x100000000LL, patterns).to(at::kInt);
  const Tensor all = bits.view(at::kFloat);
  const Tensor master = here(all.masked_select(all.isnan().logical_not()));
  auto [weight, low] = split_master(master);
  const Tensor weight_before = weight.clone(), low_before = low.clone();
  const Tensor zeros = at::zeros_like(master);
  adamw_split_(weight, low, zeros, zeros.clone(), zeros.clone(), {}, {.lr = 0, .eps = 1, .step = 1});
  EXPECT_TRUE(same_bytes(weight, weight_before));
  EXPECT_TRUE(same_bytes(low, low_before));
}

TEST_P(AdamwSplit, TwoRunsAreBitEqual) {
  at::manual_seed(6);
  const State start = random_state({100003}, device());
  const Tensor grad = here(at::randn({100003}));
  State a = clone(start), b = clone(start);
  adamw_split_(a.master, {}, grad, a.exp_avg, a.exp_avg_sq, {}, options());
  adamw_split_(b.master, {}, grad, b.exp_avg, b.exp_avg_sq, {}, options());
  EXPECT_TRUE(same_bytes(a.master, b.master));
}

QKR_ON_EVERY_DEVICE(AdamwSplit);

TEST(AdamwSplitMeta, ChecksAsTheRealOnesDo) {
  const auto on_meta = [](at::ScalarType type) { return at::empty({4}, at::TensorOptions(at::kMeta).dtype(type)); };
  adamw_split_(on_meta(at::kBFloat16), on_meta(at::kShort), on_meta(at::kBFloat16), on_meta(at::kFloat),
               on_meta(at::kFloat), {}, {});
  const std::string message = QKR_MESSAGE_OF(
      adamw_split_(on_meta(at::kHalf), {}, on_meta(at::kFloat), on_meta(at::kFloat), on_meta(at::kFloat), {}, {}));
  EXPECT_NE(message.find("adamw_split_: weight must be BFloat16 or Float, got Half"), std::string::npos) << message;
}

}  // namespace
}  // namespace qkr
