// What one step computes: the mean over the step's labelled tokens, however they are cut into micro-batches and rows.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/loop/support.h"
#include "tests/support/accuracy.h"
#include "trainer/optim/schedule.h"

namespace qkr {
namespace {

using test::copy_of;
using test::expect_same_state;
using test::relative_rms;
using test::row_each;
using test::tiny_decoder;
using test::tiny_samples;
using test::TinyRun;

const std::vector<int64_t> kLengths = {31, 7, 64, 12, 25, 40, 3, 18};

// One step over everything. eps is large, so that the update is nearly proportional to the gradient: Adam's first step
// is otherwise its sign, and a rounding error of a vanishing gradient would turn it.
RunConfig one_step(int64_t micro_batch_tokens) {
  RunConfig config;
  config.data.max_length = 64;
  config.train.tokens_per_step = 1000;
  config.train.max_steps = 1;
  config.train.micro_batch_tokens = micro_batch_tokens;
  config.train.shuffle = false;
  config.optim.lr = 0.1;
  config.optim.eps = 1.0;
  config.optim.warmup = 0;
  config.optim.schedule = "constant";
  config.optim.clip_norm = 0;
  return config;
}

struct Moved {
  double loss = 0, norm = 0;
  NamedTensors updates;
};

Moved run_once(const RunConfig& config, const std::string& model, const std::vector<Row>& rows) {
  TinyRun run(config, tiny_decoder(model, at::kFloat), tiny_samples(kLengths), rows);
  const NamedTensors before = copy_of(run.state.weights);
  run.go();
  EXPECT_EQ(run.reports.size(), 1u);
  Moved moved{run.reports.at(0).loss, run.reports.at(0).grad_norm, {}};
  for (const auto& [name, weight] : run.state.weights) moved.updates.set(name, weight.detach() - before.at(name));
  return moved;
}

void expect_close(const Moved& got, const Moved& want) {
  EXPECT_NEAR(got.loss, want.loss, 2e-6 * want.loss);
  EXPECT_NEAR(got.norm, want.norm, 1e-5 * want.norm);
  for (const auto& [name, update] : want.updates) {
    EXPECT_GT(test::rms(update), 0) << name;
    // An update is a difference of fp32 weights, so it carries their rounding.
    EXPECT_LE(relative_rms(got.updates.at(name), update), 1e-3) << name;
  }
}

// The definition, with logits of whole samples in fp64: {the mean over all labels, the mean of the samples' means}.
std::pair<double, double> losses_by_definition(const std::string& model) {
  const Decoder decoder = tiny_decoder(model, at::kDouble);
  const at::NoGradGuard no_grad;
  double sum = 0, means = 0;
  int64_t labels = 0, with_label = 0;
  for (const Sample& sample : tiny_samples(kLengths)) {
    const at::Tensor ids = at::tensor(sample.ids, at::kInt).to(at::kLong);
    const at::Tensor logits = decoder.logits(decoder.forward(ids, Segments::packed({0, sample.size()}, at::kCPU)));
    const at::Tensor log_p = logits.log_softmax(1);
    double own = 0;
    int64_t count = 0;
    for (int64_t t = 0; t + 1 < sample.size(); ++t) {
      if (sample.trained[t + 1] == 0) continue;
      own -= log_p[t][sample.ids[t + 1]].item<double>();
      ++count;
    }
    sum += own;
    labels += count;
    if (count > 0) {
      means += own / static_cast<double>(count);
      ++with_label;
    }
  }
  return {sum / static_cast<double>(labels), means / static_cast<double>(with_label)};
}

class Step : public testing::TestWithParam<const char*> {};

TEST_P(Step, AccumulationEqualsOneLargeBatch) {
  const std::vector<Row> rows = row_each(tiny_samples(kLengths));
  const Moved whole = run_once(one_step(1000), GetParam(), rows);
  expect_close(run_once(one_step(1), GetParam(), rows), whole);   // a micro-batch a row
  expect_close(run_once(one_step(70), GetParam(), rows), whole);  // several rows each, unequal numbers of labels
  const auto [mean, mean_of_means] = losses_by_definition(GetParam());
  EXPECT_NEAR(whole.loss, mean, 1e-5 * mean);
  ASSERT_GT(std::abs(mean - mean_of_means), 1e-2) << "these samples would not tell the one from the other";
}

TEST_P(Step, PackedRowsEqualSeparateRows) {
  const Moved separate = run_once(one_step(1000), GetParam(), row_each(tiny_samples(kLengths)));
  const std::vector<Row> packed = pack_rows(kLengths, 64, true);
  ASSERT_LT(packed.size(), kLengths.size());
  expect_close(run_once(one_step(1000), GetParam(), packed), separate);
  expect_close(run_once(one_step(64), GetParam(), packed), separate);
}

TEST_P(Step, CheckpointedActivationsGiveTheSameWeights) {
  RunConfig config = test::busy_config();
  config.train.max_steps = 3;
  const auto rows = pack_rows(kLengths, 64, true);
  TinyRun plain(config, tiny_decoder(GetParam(), at::kFloat), tiny_samples(kLengths), rows);
  plain.go();
  config.train.checkpoint_activations = "block";
  TinyRun again(config, tiny_decoder(GetParam(), at::kFloat), tiny_samples(kLengths), rows);
  again.go();
  expect_same_state(again.state, plain.state);
}

INSTANTIATE_TEST_SUITE_P(, Step,
                         testing::Values("hypenet-tiny", "hypenet-gqa-untied", "qwen3-tiny", "qwen2-tiny",
                                         "llama-tiny"),
                         [](const auto& c) { return test::test_name(c.param); });

TEST(StepReports, SayWhatTheStepDid) {
  RunConfig config = test::busy_config();
  config.train.max_steps = 20;  // several epochs
  const auto rows = pack_rows(kLengths, 64, true);
  TinyRun run(config, tiny_decoder("hypenet-tiny", at::kFloat), tiny_samples(kLengths), rows);
  std::vector<std::string> order, want = {"before 0"};
  std::vector<int64_t> cursors;
  auto& hook = run.add_hook();
  hook.before = [&](TrainState& state) { order.push_back("before " + std::to_string(state.step)); };
  hook.step = [&](const StepReport& report, TrainState& state) {
    EXPECT_EQ(report.step, state.step);
    EXPECT_EQ(report.tokens_seen, state.tokens_seen);
    order.push_back("step " + std::to_string(state.step));
    cursors.push_back(state.next_sample);
  };
  hook.after = [&](RunEnd, TrainState& state) { order.push_back("after " + std::to_string(state.step)); };
  EXPECT_EQ(run.go(), RunEnd::kFinished);
  for (int64_t step = 1; step <= 20; ++step) want.push_back("step " + std::to_string(step));
  want.push_back("after 20");
  EXPECT_EQ(order, want);

  const Schedule schedule(config.optim, 20);
  BatchPlan plan = make_plan(config, run.samples, run.rows);
  int64_t seen = 0, trained = 0, position = 0;
  for (size_t i = 0; i < 20; ++i) {
    const StepReport& report = run.reports[i];
    const PlannedStep planned = plan.step_at(position);
    int64_t tokens = 0, labelled = 0;
    for (const auto& micro : planned.micro_batches) {
      for (const int64_t row : micro) {
        for (const int64_t sample : run.rows[row]) {
          tokens += run.samples[sample].size();
          for (int64_t t = 1; t < run.samples[sample].size(); ++t) labelled += run.samples[sample].trained[t];
        }
      }
    }
    position = planned.next_sample;
    seen += tokens;
    trained += labelled;
    EXPECT_EQ(report.tokens, tokens);
    EXPECT_EQ(report.trained_tokens, labelled);
    EXPECT_EQ(report.tokens_seen, seen);
    EXPECT_EQ(report.total_steps, 20);
    EXPECT_EQ(cursors[i], position);
    EXPECT_EQ(report.lr, schedule.at(static_cast<int64_t>(i) + 1));
    EXPECT_DOUBLE_EQ(report.epoch, static_cast<double>(position) / static_cast<double>(rows.size()));
    EXPECT_GT(report.seconds, 0);
    EXPECT_DOUBLE_EQ(report.tokens_per_second, static_cast<double>(tokens) / report.seconds);
    EXPECT_GT(report.memory_bytes, 1 << 20);
  }
  EXPECT_EQ(run.reports.back().eta_seconds, 0);
  EXPECT_GT(run.reports.front().eta_seconds, 0);
  EXPECT_EQ(run.state.tokens_trained, trained);
  EXPECT_GT(position, 2 * static_cast<int64_t>(rows.size()));
}

TEST(StepReports, ARunAtItsEndDoesNoStep) {
  RunConfig config = test::busy_config();
  config.train.max_steps = 2;
  TinyRun run(config, tiny_decoder("llama-tiny", at::kFloat), tiny_samples(kLengths), row_each(tiny_samples(kLengths)));
  run.go();
  const NamedTensors before = copy_of(run.state.weights);
  int ended = 0;
  run.add_hook().after = [&](RunEnd end, TrainState&) { ended += end == RunEnd::kFinished ? 1 : 10; };
  EXPECT_EQ(run.go(), RunEnd::kFinished);
  EXPECT_EQ(ended, 1);
  EXPECT_EQ(run.reports.size(), 2u);
  test::expect_same_tensors(run.state.weights, before);
}

TEST(StepReports, AStopThatIsAskedForAtOnceDoesNoStep) {
  TinyRun run(test::busy_config(), tiny_decoder("llama-tiny", at::kFloat), tiny_samples(kLengths),
              row_each(tiny_samples(kLengths)));
  run.stop = true;
  EXPECT_EQ(run.go(), RunEnd::kStopped);
  EXPECT_EQ(run.state.step, 0);
}

// Ten losses of one configuration, so that a change that should not change the maths shows that it does not.
TEST(GoldenLosses, TenStepsOfATinyHypeNet) {
  RunConfig config = test::busy_config();
  config.train.max_steps = 10;
  config.optim.lr = 5e-4;
  TinyRun run(config, tiny_decoder("hypenet-tiny", at::kFloat), tiny_samples(kLengths), pack_rows(kLengths, 64, true));
  run.go();
  const std::vector<double> golden = {8.81493473, 8.7012825,  8.84548378, 7.78471518, 7.57664204,
                                      7.88726473, 6.36441708, 7.18518972, 6.04411602, 6.00227737};
  ASSERT_EQ(run.reports.size(), golden.size());
  for (size_t i = 0; i < golden.size(); ++i)
    EXPECT_NEAR(run.reports[i].loss, golden[i], 1e-5 * golden[i]) << "step " << i + 1;
}

}  // namespace
}  // namespace qkr
