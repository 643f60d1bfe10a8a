// train.freeze and train.freeze_qk: what is kept keeps its bytes and costs nothing, the rest trains as it would.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>

#include <cmath>
#include <set>

#include "tests/loop/support.h"
#include "tests/support/accuracy.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/core/pattern.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};
const std::vector<std::string> kBottom = {"model.embed_tokens.*", "model.layers.[01].*"};

RunConfig frozen_config(const std::vector<std::string>& patterns, int64_t steps = 3) {
  RunConfig config = busy_config();
  config.train.max_steps = steps;
  config.train.freeze = patterns;
  return config;
}

std::unique_ptr<TinyRun> make_run(const RunConfig& config, const std::string& model = "hypenet-tiny", at::ScalarType dtype = at::kFloat) {
  return std::make_unique<TinyRun>(config, tiny_decoder(model, dtype), tiny_samples(kLengths), row_each(tiny_samples(kLengths)));
}

std::vector<std::string> frozen_of(const std::string& model, const std::vector<std::string>& patterns, bool freeze_qk = false) {
  TrainConfigSection config;
  config.freeze = patterns;
  config.freeze_qk = freeze_qk;
  return frozen_weights(tiny_source(model).architecture, config);
}

// The loss of one batch, with its graph.
at::Tensor loss_of(TinyRun& run) {
  const Batch batch = make_batch(run.samples, {{0, 2}});
  return run.decoder.loss(batch.tokens, batch.targets, Segments::packed(batch.cu_seqlens, at::kCPU), 0.01);
}

// How many operations the backward pass would go through.
size_t graph_size(const at::Tensor& loss) {
  std::set<torch::autograd::Node*> seen;
  std::vector<torch::autograd::Node*> open = {loss.grad_fn().get()};
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) continue;
    for (const auto& edge : node->next_edges()) open.push_back(edge.function.get());
  }
  return seen.size();
}

class Freeze : public testing::TestWithParam<std::string> {};

TEST_P(Freeze, KeepsTheBytesOfWhatItMatchesAndNothingElse) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const std::vector<std::string> patterns = {"model.embed_tokens.*", "model.layers.[01].*", "*.2.mlp.*", "model.norm.weight"};
    const auto run = make_run(frozen_config(patterns), GetParam(), dtype);
    const NamedTensors before = copy_of(run->state.weights);
    run->add_hook().step = [&](const StepReport&, TrainState& state) {
      for (const auto& [name, weight] : state.weights) EXPECT_FALSE(weight.grad().defined()) << name;
    };
    run->go();
    size_t kept = 0;
    for (const auto& [name, weight] : run->state.weights) {
      const bool frozen = matches_any(patterns, name);
      kept += frozen ? 1 : 0;
      const at::Tensor* low = run->state.optim.find("master_low." + name);  // a bf16 weight may move in its lower half alone
      const bool moved = !same_bytes(weight, before.at(name)) || (low != nullptr && low->count_nonzero().item<int64_t>() > 0);
      EXPECT_EQ(moved, !frozen) << name;
      EXPECT_EQ(weight.requires_grad(), !frozen) << name;
      for (const char* state : {"exp_avg.", "exp_avg_sq.", "master_low."}) {
        EXPECT_EQ(run->state.optim.contains(state + name), !frozen && (dtype == at::kBFloat16 || state != std::string("master_low."))) << state << name;
      }
    }
    EXPECT_EQ(kept, frozen_of(GetParam(), patterns).size());
    EXPECT_GT(kept, 10u);
  }
}

// The gradients of what is trained are those that they would be, and the norm is theirs alone.
TEST_P(Freeze, LeavesTheOtherGradientsAsTheyAre) {
  const auto all = make_run(frozen_config({}), GetParam()), some = make_run(frozen_config(kBottom), GetParam());
  loss_of(*all).backward();
  loss_of(*some).backward();
  double squares = 0;
  for (const auto& [name, weight] : some->decoder.weights()) {
    EXPECT_EQ(weight.grad().defined(), !matches_any(kBottom, name)) << name;
    if (!weight.grad().defined()) continue;
    const at::Tensor& want = all->decoder.weights().at(name).grad();
    EXPECT_LE(max_abs_difference(weight.grad(), want), 1e-6 * want.abs().max().item<double>()) << name;
    squares += weight.grad().to(at::kDouble).square().sum().item<double>();
  }
  EXPECT_NEAR(some->optimizer.grad_norm().item<double>(), std::sqrt(squares), 1e-5 * std::sqrt(squares));
  EXPECT_LT(std::sqrt(squares), 0.999 * all->optimizer.grad_norm().item<double>());
}

INSTANTIATE_TEST_SUITE_P(, Freeze, testing::Values("hypenet-tiny", "hypenet-gqa-untied", "qwen2-tiny"),
                         [](const auto& one) { return test_name(one.param); });

TEST(FreezeGraph, EndsAtTheFirstTrainedLayer) {
  const size_t whole = graph_size(loss_of(*make_run(frozen_config({}))));
  const size_t upper_half = graph_size(loss_of(*make_run(frozen_config(kBottom))));
  const size_t last = graph_size(loss_of(*make_run(frozen_config({"model.embed_tokens.*", "model.layers.[0-2].*"}))));
  const size_t no_layer = graph_size(loss_of(*make_run(frozen_config({"model.embed_tokens.*", "model.layers.*"}))));
  // Under a trained embedding every layer has to pass the gradient on.
  const size_t embedding = graph_size(loss_of(*make_run(frozen_config({"model.layers.*"}))));
  EXPECT_LT(upper_half, whole * 6 / 10);
  EXPECT_LT(last, upper_half * 3 / 4);
  EXPECT_LE(no_layer, 4u);  // the loss, the final norm and its gain
  EXPECT_GT(embedding, whole / 2);
}

TEST(FreezeRecompute, GivesTheSameWeights) {
  for (const auto& patterns : std::vector<std::vector<std::string>>{kBottom, {"model.embed_tokens.*"}, {"model.layers.[12].*"}}) {
    RunConfig config = frozen_config(patterns);
    const auto kept = make_run(config);
    kept->go();
    config.train.checkpoint_activations = "block";
    const auto again = make_run(config);
    const NamedTensors before = copy_of(again->state.weights);
    again->go();
    for (const auto& [name, weight] : again->state.weights) {
      EXPECT_EQ(same_bytes(weight, before.at(name)), matches_any(patterns, name)) << name;
      EXPECT_LE(max_abs_difference(weight, kept->state.weights.at(name)), 1e-6) << name;
    }
  }
}

// One block at a time is computed again, and a block that neither trains nor passes a gradient on is not.
TEST(FreezeRecompute, KeepsNoGraphOfABlock) {
  const auto size_with = [](const std::vector<std::string>& patterns) {
    const auto run = make_run(frozen_config(patterns));
    run->decoder.checkpoint_activations(true);
    return graph_size(loss_of(*run));
  };
  const size_t head = size_with({"model.embed_tokens.*", "model.layers.*"});
  EXPECT_EQ(size_with(kBottom), head + 2 * 2);  // each trained block: its recomputation, and what makes that wanted or the block below
  EXPECT_LE(size_with({"model.embed_tokens.*"}), head + 2 * 4);
}

TEST(FreezeResume, IsBitEqual) {
  const RunConfig config = frozen_config(kBottom, 8);
  const TmpDir dir;
  const auto straight = make_run(config, "hypenet-tiny", at::kBFloat16);
  straight->go();
  const auto first = make_run(config, "hypenet-tiny", at::kBFloat16);
  first->add_hook().step = [&](const StepReport& report, TrainState&) { first->stop = report.step == 3; };
  first->go();
  save_checkpoint(dir / "three", first->state);
  const auto second = make_run(config, "hypenet-tiny", at::kBFloat16);
  load_checkpoint(dir / "three", second->state);
  second->go();
  expect_same_state(second->state, straight->state);
}

TEST(FreezePatterns, ThatMatchNothingAreRefusedByName) {
  EXPECT_EQ(QKR_MESSAGE_OF(frozen_of("hypenet-tiny", {"model.norm.weight", "model.embed_token.*"})),
            "train.freeze: 'model.embed_token.*' must match a weight of the model, got none; did you mean model.embed_tokens.weight?");
  EXPECT_EQ(QKR_MESSAGE_OF(frozen_of("hypenet-tiny", {"model.layers.0"})),
            "train.freeze: 'model.layers.0' must match a weight of the model, got none; did you mean model.layers.0*?");
  EXPECT_EQ(QKR_MESSAGE_OF(frozen_of("hypenet-tiny", {"lm_head.*"})),
            "train.freeze: 'lm_head.*' must match a weight of the model, got none; its LM head is model.embed_tokens.weight, to which it is tied");
  EXPECT_EQ(frozen_of("hypenet-gqa-untied", {"lm_head.*"}), (std::vector<std::string>{"lm_head.weight"}));
}

TEST(FreezePatterns, MustLeaveSomething) {
  EXPECT_EQ(QKR_MESSAGE_OF(frozen_of("qwen2-tiny", {"model.*"})),
            "train.freeze: must leave a weight to train, got [model.*], which keep all 38 of the model");
  EXPECT_EQ(frozen_of("qwen2-tiny", {"model.[!n]*"}).size(), 37u);
}

TEST(FreezePatterns, AddToFreezeQk) {
  const std::vector<std::string> both = frozen_of("qwen2-tiny", {"model.norm.*", "model.layers.0.self_attn.q_proj.*"}, true);
  EXPECT_EQ(both.size(), 3u * 4 + 1);  // weights and biases of q and k of three layers, and the norm
  EXPECT_TRUE(frozen_of("qwen2-tiny", {}).empty());
}

TEST(FreezeCount, CountsWeightsAndFindsTheLowestTrainedLayer) {
  const Architecture a = tiny_source("hypenet-gqa-untied").architecture;
  const auto first_layer = [&](const std::vector<std::string>& patterns) { return count_trained(a, frozen_of("hypenet-gqa-untied", patterns)).first_layer; };
  EXPECT_EQ(count_trained(a, {}).weights, parameter_count(a));
  EXPECT_EQ(count_trained(a, frozen_of("hypenet-gqa-untied", {"lm_head.*"})).weights, parameter_count(a) - a.vocab_size * a.hidden_size);
  EXPECT_EQ(first_layer({}), -1);
  EXPECT_EQ(first_layer({"model.layers.*"}), -1);
  EXPECT_EQ(first_layer({"model.embed_tokens.*"}), 0);
  EXPECT_EQ(first_layer({"model.embed_tokens.*", "model.layers.[0-3].*"}), 4);
  EXPECT_EQ(first_layer({"model.embed_tokens.*", "model.layers.*"}), 6);
}

TEST(FreezeQk, KeepsTheRoutingOfSoftmaxLayersAndNothingElse) {
  for (const std::string model : {"hypenet-tiny", "qwen2-tiny"}) {
    RunConfig config = test::busy_config();
    config.train.max_steps = 3;
    config.train.freeze_qk = true;
    TinyRun run(config, tiny_decoder(model, at::kFloat), tiny_samples(kLengths), row_each(tiny_samples(kLengths)));
    const NamedTensors before = copy_of(run.state.weights);
    run.go();
    const std::vector<int64_t> softmax = run.decoder.architecture().softmax_layers();
    for (const auto& [name, weight] : run.state.weights) {
      bool frozen = false;
      for (const int64_t layer : softmax) {
        const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
        for (const char* part : {"q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias"})
          frozen = frozen || name == prefix + part;
      }
      EXPECT_EQ(test::same_bytes(weight, before.at(name)), frozen) << model << " " << name;
      EXPECT_EQ(run.state.optim.contains("exp_avg." + name), !frozen) << model << " " << name;
    }
  }
}

}  // namespace
}  // namespace qkr
