// NaN and Inf stop a run: step and first layer are named, the state is that of the step before, checkpoints stay.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/loop/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/core/error.h"

namespace qkr {
namespace {

using test::busy_config;
using test::copy_of;
using test::expect_same_tensors;
using test::row_each;
using test::tiny_decoder;
using test::tiny_samples;
using test::TinyRun;
using test::TmpDir;

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

std::unique_ptr<TinyRun> start(at::ScalarType dtype) {
  return std::make_unique<TinyRun>(busy_config(), tiny_decoder("hypenet-tiny", dtype), tiny_samples(kLengths),
                                   row_each(tiny_samples(kLengths)));
}

void poison(TrainState& state, const std::string& name, double value) {
  const at::NoGradGuard no_grad;
  state.weights.at(name).flatten()[3].fill_(value);
}

// The Error of a run that must fail.
Error failure_of(TinyRun& run) {
  try {
    run.go();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "the run went through";
  return Error(ExitCode::kDone, "");
}

void expect_says(const Error& error, const std::vector<std::string>& parts) {
  for (const std::string& part : parts)
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks " << part;
}

struct Poison {
  const char* weight;
  double value;
  const char* place;
};

class NonFinite : public testing::TestWithParam<std::tuple<Poison, at::ScalarType>> {};

TEST_P(NonFinite, WeightStopsTheRunNamingStepAndLayer) {
  const auto& [bad, dtype] = GetParam();
  const TmpDir dir;
  const auto run = start(dtype);
  NamedTensors weights, optim, saved_weights, saved_optim;
  run->add_hook().step = [&, &bad = bad](const StepReport& report, TrainState& state) {
    if (report.step == 2) {
      save_checkpoint(dir / "two", state);
      saved_weights = copy_of(state.weights);
      saved_optim = copy_of(state.optim);
    }
    if (report.step != 3) return;
    poison(state, bad.weight, bad.value);
    weights = copy_of(state.weights);
    optim = copy_of(state.optim);
  };
  const Error error = failure_of(*run);
  EXPECT_EQ(error.code(), ExitCode::kRunFailed);
  expect_says(error, {"step 4: loss must be finite", bad.place, "The weights are those of step 3"});
  EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  expect_same_tensors(run->state.weights, weights);
  expect_same_tensors(run->state.optim, optim);
  EXPECT_EQ(run->state.step, 3);
  EXPECT_EQ(run->state.tokens_seen, run->reports.back().tokens_seen);
  for (const auto& [name, weight] : run->state.weights) EXPECT_FALSE(weight.grad().defined()) << name;

  const auto again = start(dtype);  // the earlier checkpoint is whole, and its run goes on
  EXPECT_EQ(load_checkpoint(dir / "two", again->state).step, 2);
  expect_same_tensors(again->state.weights, saved_weights);
  expect_same_tensors(again->state.optim, saved_optim);
  again->config.train.max_steps = 5;
  EXPECT_EQ(again->go(), RunEnd::kFinished);
}

INSTANTIATE_TEST_SUITE_P(
    , NonFinite,
    testing::Combine(testing::Values(Poison{"model.layers.0.self_attn.k_proj.weight", kNan, "layer 0 (lightning)"},
                                     Poison{"model.layers.1.self_attn.q_proj.weight", kNan, "layer 1 (softmax)"},
                                     Poison{"model.layers.2.mlp.up_proj.weight", kInf, "layer 2 (lightning)"},
                                     Poison{"model.layers.3.post_attention_layernorm.weight", -kInf,
                                            "layer 3 (softmax)"},
                                     Poison{"model.norm.weight", kNan, "final norm"}),
                     testing::Values(at::kFloat, at::kBFloat16)),
    [](const auto& c) {
      return test::test_name(std::get<0>(c.param).place +
                             std::string(std::get<1>(c.param) == at::kFloat ? "fp32" : "bf16"));
    });

TEST(NonFiniteGradient, StopsTheRunNamingStepAndWeight) {
  const auto run = start(at::kFloat);
  NamedTensors weights, optim;
  run->add_hook().step = [&](const StepReport& report, TrainState& state) {
    if (report.step != 2) return;
    weights = copy_of(state.weights);
    optim = copy_of(state.optim);
    // The forward pass stays finite; the gradient of one weight does not.
    state.weights.at("model.layers.1.self_attn.o_gate.weight").register_hook([](const at::Tensor& grad) {
      return grad / 0.0;
    });
  };
  const Error error = failure_of(*run);
  EXPECT_EQ(error.code(), ExitCode::kRunFailed);
  expect_says(error, {"step 3: gradient must be finite", "the gradient of model.layers.1.self_attn.o_gate.weight"});
  expect_same_tensors(run->state.weights, weights);
  expect_same_tensors(run->state.optim, optim);
  EXPECT_EQ(run->state.step, 2);
}

// Where the backward pass breaks, everything before that place has a gradient that is not finite; the place is what is named.
TEST(NonFiniteGradient, IsNamedWhereTheBackwardPassBreaks) {
  const auto run = start(at::kFloat);
  run->add_hook().step = [&](const StepReport&, TrainState& state) {
    for (const auto& [name, weight] : state.weights) {
      const bool before = name.find("embed_tokens") != std::string::npos || name.find("layers.0.") != std::string::npos ||
                          name.find("layers.1.") != std::string::npos || name.find("layers.2.mlp.") != std::string::npos;
      if (before) weight.register_hook([](const at::Tensor& grad) { return grad / 0.0; });
    }
  };
  const std::string text = failure_of(*run).what();
  EXPECT_NE(text.find("the gradient of model.layers.2.mlp."), std::string::npos) << text;
}

TEST(NonFiniteGradient, OfFiniteGradientsTheNormAloneCanOverflow) {
  const auto run = start(at::kFloat);
  run->add_hook().step = [&](const StepReport&, TrainState& state) {
    state.weights.at("model.norm.weight").register_hook([](const at::Tensor& grad) {
      return at::full_like(grad, 1e30);
    });
  };
  const Error error = failure_of(*run);
  expect_says(error, {"step 2: gradient must be finite", "norm inf", "every gradient is finite"});
}

TEST(NoLabel, AStepWithoutALabelledTokenIsRefused) {
  std::vector<Sample> samples = tiny_samples(kLengths);
  for (Sample& sample : samples) std::fill(sample.trained.begin(), sample.trained.end(), 0);
  TinyRun run(busy_config(), tiny_decoder("llama-tiny", at::kFloat), samples, row_each(samples));
  const Error error = failure_of(run);
  EXPECT_EQ(error.code(), ExitCode::kRunFailed);
  expect_says(error, {"step 1", "labelled token"});
  EXPECT_EQ(run.state.step, 0);
}

}  // namespace
}  // namespace qkr
