// AdamW over named weights: state, clipping, decay, the split master.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ops/adamw_split.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "trainer/core/error.h"
#include "trainer/optim/adamw.h"

namespace qkr {
namespace {

using test::max_abs_difference;
using test::same_bytes;

OptimConfigSection plain_config() {
  OptimConfigSection config;
  config.lr = 1e-2;
  config.clip_norm = 0;
  return config;
}

NamedTensors make_weights(at::ScalarType dtype) {
  NamedTensors weights;
  weights.set("a.weight", at::arange(12, at::kFloat).view({3, 4}).div(10).add(0.05).to(dtype));
  weights.set("norm.weight", at::ones({5}, dtype));
  weights.set("b.weight", at::arange(6, at::kFloat).view({2, 3}).neg().sub(1).to(dtype));
  for (const auto& [name, weight] : weights) weight.set_requires_grad(true);
  return weights;
}

void set_grad(const NamedTensors& weights, const std::string& name, const at::Tensor& grad) {
  at::Tensor weight = weights.at(name);
  weight.mutable_grad() = grad.to(weight.scalar_type()).expand(weight.sizes()).contiguous();
}

void set_grads(const NamedTensors& weights, double value) {
  for (const auto& [name, weight] : weights) set_grad(weights, name, at::scalar_tensor(value));
}

TEST(AdamW, StateHasItsNamesDtypesAndOrder) {
  const NamedTensors bf16 = make_weights(at::kBFloat16);
  const AdamW split(plain_config(), bf16);
  std::vector<std::string> names;
  for (const auto& [name, tensor] : split.state()) {
    names.push_back(name);
    const bool low = name.rfind("master_low.", 0) == 0;
    EXPECT_EQ(tensor.scalar_type(), low ? at::kShort : at::kFloat) << name;
    EXPECT_EQ(tensor.count_nonzero().item<int64_t>(), 0) << name;
    EXPECT_EQ(tensor.sizes(), bf16.at(name.substr(name.find('.') + 1)).sizes()) << name;
  }
  EXPECT_EQ(names, (std::vector<std::string>{"exp_avg.a.weight", "exp_avg_sq.a.weight", "master_low.a.weight",
                                             "exp_avg.norm.weight", "exp_avg_sq.norm.weight", "master_low.norm.weight",
                                             "exp_avg.b.weight", "exp_avg_sq.b.weight", "master_low.b.weight"}));
  const AdamW whole(plain_config(), make_weights(at::kFloat));
  EXPECT_EQ(whole.state().size(), 6u);
  EXPECT_FALSE(whole.state().contains("master_low.a.weight"));
}

TEST(AdamW, LeavesFrozenWeightsAlone) {
  const NamedTensors weights = make_weights(at::kFloat);
  weights.at("a.weight").set_requires_grad(false);
  AdamW optimizer(plain_config(), weights);
  EXPECT_FALSE(optimizer.state().contains("exp_avg.a.weight"));
  const at::Tensor before = weights.at("a.weight").clone(), other = weights.at("b.weight").detach().clone();
  set_grad(weights, "b.weight", at::ones({}));
  optimizer.step(1, 0.1, optimizer.grad_norm());
  EXPECT_TRUE(same_bytes(weights.at("a.weight"), before));
  EXPECT_GT(max_abs_difference(weights.at("b.weight"), other), 0.05);
}

TEST(AdamW, FollowsTheFormulaInDoubles) {
  OptimConfigSection config = plain_config();
  config.weight_decay = 0.1;
  const NamedTensors weights = make_weights(at::kFloat);
  AdamW optimizer(config, weights);
  at::Tensor w = weights.at("a.weight").detach().to(at::kDouble), m = at::zeros_like(w), v = at::zeros_like(w);
  for (int64_t step = 1; step <= 25; ++step) {
    const double lr = 1e-2 / static_cast<double>(step);
    const at::Tensor grad = (at::arange(12, at::kFloat).view({3, 4}) * 0.7 + static_cast<double>(step)).sin();
    set_grad(weights, "a.weight", grad);
    optimizer.step(step, lr, optimizer.grad_norm());
    const at::Tensor g = grad.to(at::kDouble);
    m = config.beta1 * m + (1 - config.beta1) * g;
    v = config.beta2 * v + (1 - config.beta2) * g * g;
    w = w - lr * config.weight_decay * w;
    w = w -
        lr * (m / (1 - std::pow(config.beta1, step))) / ((v / (1 - std::pow(config.beta2, step))).sqrt() + config.eps);
  }
  EXPECT_LE(max_abs_difference(weights.at("a.weight"), w), 1e-6);
}

TEST(AdamW, NormIsOverAllGradientsTogether) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const NamedTensors weights = make_weights(dtype);
    AdamW optimizer(plain_config(), weights);
    EXPECT_EQ(optimizer.grad_norm().item<double>(), 0);  // no gradient at all
    set_grad(weights, "a.weight", at::full({3, 4}, 0.5));
    set_grad(weights, "norm.weight", at::full({5}, -2.0));
    EXPECT_NEAR(optimizer.grad_norm().item<double>(), std::sqrt(12 * 0.25 + 5 * 4.0), 1e-6);  // b.weight has none
    set_grad(weights, "b.weight", at::full({2, 3}, 1.0));
    EXPECT_NEAR(optimizer.grad_norm().item<double>(), std::sqrt(12 * 0.25 + 5 * 4.0 + 6), 1e-6);
    EXPECT_EQ(optimizer.grad_norm().scalar_type(), at::kFloat);
  }
}

// exp_avg after one step is (1 - beta1) times the gradient that the update saw.
double seen_gradient(double clip_norm, double grad) {
  OptimConfigSection config = plain_config();
  config.clip_norm = clip_norm;
  NamedTensors weights;
  weights.set("w", at::zeros({4, 4}));
  weights.at("w").set_requires_grad(true);
  AdamW optimizer(config, weights);
  set_grads(weights, grad);
  optimizer.step(1, 1e-3, optimizer.grad_norm());
  return optimizer.state().at("exp_avg.w")[0][0].item<double>() / (1 - config.beta1);
}

TEST(AdamW, ClipsTheGlobalNormAndNeverScalesUp) {
  EXPECT_NEAR(seen_gradient(1.0, 2.0), 2.0 / 8.0, 1e-5);  // the norm is 8
  EXPECT_NEAR(seen_gradient(0.25, -2.0), -2.0 / 32.0, 1e-5);
  EXPECT_NEAR(seen_gradient(1.0, 0.125), 0.125, 1e-6);  // 0.5: within
  EXPECT_NEAR(seen_gradient(0.0, 2.0), 2.0, 1e-6);      // off
}

TEST(AdamW, DecaysMatricesAndNoVectors) {
  OptimConfigSection config = plain_config();
  config.weight_decay = 0.5;
  const NamedTensors weights = make_weights(at::kFloat);
  AdamW optimizer(config, weights);
  NamedTensors before;
  for (const auto& [name, weight] : weights) before.set(name, weight.detach().clone());
  set_grads(weights, 0.0);
  optimizer.step(1, 0.1, optimizer.grad_norm());
  for (const char* name : {"a.weight", "b.weight"})
    EXPECT_LE(max_abs_difference(weights.at(name), before.at(name) * 0.95), 1e-6);
  EXPECT_TRUE(same_bytes(weights.at("norm.weight"), before.at("norm.weight")));
}

// Weights that may and may not go into one launch: bf16 and fp32, matrices and vectors, with a gradient and without.
TEST(AdamW, UpdatesEveryKindOfWeightAsACallForEachDoes) {
  OptimConfigSection config = plain_config();
  config.weight_decay = 0.1;
  at::manual_seed(3);
  NamedTensors weights;
  for (int i = 0; i < 12; ++i) {
    const at::Tensor w = i % 3 == 0 ? at::randn({7}) : at::randn({5, 3 + i});
    weights.set(concat("w", i), w.to(i % 2 == 0 ? at::kBFloat16 : at::kFloat).set_requires_grad(true));
  }
  AdamW optimizer(config, weights);
  NamedTensors want;  // copies of weights and state
  for (const auto& [name, weight] : weights) {
    want.set(name, weight.detach().clone());
    if (name != "w4") set_grad(weights, name, at::randn(weight.sizes()));
  }
  for (const auto& [name, tensor] : optimizer.state()) want.set(name, tensor.clone());
  for (const auto& [name, weight] : weights) {
    if (!weight.grad().defined()) continue;
    const at::Tensor* low = want.find("master_low." + name);
    adamw_split_(want.at(name), low == nullptr ? std::nullopt : std::optional<at::Tensor>(*low), weight.grad(),
                 want.at("exp_avg." + name), want.at("exp_avg_sq." + name), std::nullopt,
                 {0.01, config.beta1, config.beta2, config.eps, weight.dim() > 1 ? config.weight_decay : 0.0, 2});
  }
  optimizer.step(2, 0.01, optimizer.grad_norm());
  for (const auto& [name, weight] : weights) EXPECT_TRUE(same_bytes(weight, want.at(name))) << name;
  for (const auto& [name, tensor] : optimizer.state()) EXPECT_TRUE(same_bytes(tensor, want.at(name))) << name;
}

TEST(AdamW, DropsGradientsAfterAStepAndOnDemand) {
  const NamedTensors weights = make_weights(at::kFloat);
  AdamW optimizer(plain_config(), weights);
  set_grads(weights, 1.0);
  optimizer.step(1, 0.1, optimizer.grad_norm());
  for (const auto& [name, weight] : weights) EXPECT_FALSE(weight.grad().defined()) << name;
  set_grads(weights, 1.0);
  optimizer.drop_grads();
  for (const auto& [name, weight] : weights) EXPECT_FALSE(weight.grad().defined()) << name;
}

// A bf16 ulp at 1.5 is 2^-7. With a constant gradient every update is lr, so this walks in known steps.
constexpr double kUlp = 0x1p-7;

at::Tensor walk(double lr, int64_t steps, NamedTensors& weights) {
  weights.set("w", at::full({2, 8}, 1.5, at::kBFloat16));
  weights.at("w").set_requires_grad(true);
  AdamW optimizer(plain_config(), weights);
  for (int64_t step = 1; step <= steps; ++step) {
    set_grad(weights, "w", at::full({}, -1.0));
    optimizer.step(step, lr, optimizer.grad_norm());
  }
  return join_master(weights.at("w").detach(), optimizer.state().at("master_low.w"));
}

TEST(SplitMaster, KeepsUpdatesFarBelowAnUlpOfTheWeight) {
  NamedTensors weights;
  // A thousand updates of 1e-4 ulp: a tenth of an ulp, in the master alone.
  const at::Tensor master = walk(1e-4 * kUlp, 1000, weights);
  EXPECT_NEAR(master[0][0].item<double>(), 1.5 + 0.1 * kUlp, 0.01 * kUlp);
  EXPECT_EQ(weights.at("w")[0][0].item<double>(), 1.5);
  // A thousand of 4e-3 ulp: four ulps, in the weight too. Plain bf16 would still stand at 1.5.
  walk(4e-3 * kUlp, 1000, weights);
  EXPECT_EQ(weights.at("w")[1][7].item<double>(), 1.5 + 4 * kUlp);
  at::Tensor plain = at::full({}, 1.5, at::kBFloat16);
  for (int64_t step = 0; step < 1000; ++step) plain += 4e-3 * kUlp;
  EXPECT_EQ(plain.item<double>(), 1.5);
}

TEST(SplitMaster, ResetMakesTheMasterTheWeightItself) {
  const NamedTensors weights = make_weights(at::kBFloat16);
  AdamW optimizer(plain_config(), weights);
  for (int64_t step = 1; step <= 3; ++step) {
    set_grads(weights, 0.3);
    optimizer.step(step, 3e-4, optimizer.grad_norm());
  }
  const auto& state = optimizer.state();
  for (const char* name : {"a.weight", "b.weight"})
    ASSERT_GT(state.at(std::string("master_low.") + name).count_nonzero().item<int64_t>(), 0);
  const at::Tensor moments = state.at("exp_avg.a.weight").clone(), other = state.at("master_low.b.weight").clone();
  reset_masters(state, {"a.weight", "no.such.weight"});
  EXPECT_EQ(state.at("master_low.a.weight").count_nonzero().item<int64_t>(), 0);
  EXPECT_TRUE(same_bytes(join_master(weights.at("a.weight").detach(), state.at("master_low.a.weight")),
                         weights.at("a.weight").detach().to(at::kFloat)));
  EXPECT_TRUE(same_bytes(state.at("exp_avg.a.weight"), moments));
  EXPECT_TRUE(same_bytes(state.at("master_low.b.weight"), other));
  reset_masters(AdamW(plain_config(), make_weights(at::kFloat)).state(),
                {"a.weight"});  // fp32 has none: nothing happens
}

TEST(AdamW, SharesItsStateWithWhoeverLoadsIntoIt) {
  const NamedTensors weights = make_weights(at::kFloat);
  AdamW optimizer(plain_config(), weights);
  at::Tensor(optimizer.state().at("exp_avg.a.weight")).fill_(1.0);
  const at::Tensor before = weights.at("a.weight").detach().clone();
  set_grads(weights, 0.0);
  optimizer.step(1, 1e-3, optimizer.grad_norm());
  EXPECT_GT(max_abs_difference(weights.at("a.weight"), before), 1);  // the first moment moved it
}

}  // namespace
}  // namespace qkr
