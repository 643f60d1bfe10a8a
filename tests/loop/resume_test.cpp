// A run that was stopped, saved and loaded goes on as if nothing had happened, to the bit.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/loop/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/checkpoint.h"

namespace qkr {
namespace {

using test::busy_config;
using test::expect_same_state;
using test::tiny_decoder;
using test::tiny_samples;
using test::TinyRun;
using test::TmpDir;

const std::vector<int64_t> kLengths = {31, 7, 48, 12, 25, 40, 3, 18, 22, 9, 33, 15, 27};

struct Case {
  std::string model;
  at::ScalarType dtype;
};

std::unique_ptr<TinyRun> start(const Case& c, const RunConfig& config) {
  auto samples = tiny_samples(kLengths);
  auto rows = pack_rows(kLengths, config.data.max_length, true);
  return std::make_unique<TinyRun>(config, tiny_decoder(c.model, c.dtype), std::move(samples), std::move(rows));
}

class Resume : public testing::TestWithParam<Case> {};

TEST_P(Resume, TwentyStepsEqualTenSavedLoadedAndTenMore) {
  const RunConfig config = busy_config();
  const TmpDir dir;
  const auto straight = start(GetParam(), config);
  EXPECT_EQ(straight->go(), RunEnd::kFinished);
  ASSERT_EQ(straight->state.step, 20);

  const auto first = start(GetParam(), config);
  auto& hook = first->add_hook();
  hook.step = [&](const StepReport& report, TrainState&) {
    if (report.step == 10) first->stop = true;
  };
  hook.after = [&](RunEnd end, TrainState& state) {
    EXPECT_EQ(end, RunEnd::kStopped);
    save_checkpoint(dir / "ten", state);
  };
  EXPECT_EQ(first->go(), RunEnd::kStopped);
  ASSERT_EQ(first->state.step, 10);
  // Eight whole epochs would hide a lost cursor, and a schedule that has ended a lost step.
  ASSERT_NE(first->state.next_sample % static_cast<int64_t>(first->rows.size()), 0);
  ASSERT_GT(first->state.next_sample, static_cast<int64_t>(first->rows.size()));

  const auto second = start(GetParam(), config);
  load_checkpoint(dir / "ten", second->state);
  expect_same_state(second->state, first->state);
  EXPECT_EQ(second->go(), RunEnd::kFinished);
  expect_same_state(second->state, straight->state);
  ASSERT_EQ(second->reports.size(), 10u);
  for (size_t i = 0; i < 10; ++i) {
    const StepReport &got = second->reports[i], &want = straight->reports[10 + i];
    EXPECT_EQ(got.step, want.step);
    EXPECT_EQ(got.total_steps, want.total_steps);
    EXPECT_EQ(got.loss, want.loss) << "step " << want.step;
    EXPECT_EQ(got.grad_norm, want.grad_norm) << "step " << want.step;
    EXPECT_EQ(got.lr, want.lr) << "step " << want.step;
    EXPECT_EQ(got.epoch, want.epoch) << "step " << want.step;
    EXPECT_EQ(got.tokens_seen, want.tokens_seen) << "step " << want.step;
  }
}

// The comparison above must be able to fail: each thing that a checkpoint carries, lost alone, is seen.
TEST(ResumeComparison, SeesEachLoss) {
  const Case c{"hypenet-tiny", at::kBFloat16};
  RunConfig config = busy_config();
  config.train.max_steps = 12;
  const TmpDir dir;
  const auto straight = start(c, config);
  straight->add_hook().step = [&](const StepReport& report, TrainState& state) {
    if (report.step == 6) save_checkpoint(dir / "six", state);
  };
  straight->go();

  const auto differs_after = [&](const std::function<void(TinyRun&)>& lose) {
    const auto resumed = start(c, config);
    load_checkpoint(dir / "six", resumed->state);
    lose(*resumed);
    resumed->go();
    bool differs = resumed->state.tokens_seen != straight->state.tokens_seen ||
                   resumed->state.tokens_trained != straight->state.tokens_trained;
    for (const NamedTensors* part : {&straight->state.weights, &straight->state.optim}) {
      const NamedTensors& mine = part == &straight->state.weights ? resumed->state.weights : resumed->state.optim;
      for (const auto& [name, tensor] : *part) differs = differs || !test::same_bytes(mine.at(name), tensor);
    }
    return differs;
  };
  EXPECT_FALSE(differs_after([](TinyRun&) {}));
  EXPECT_TRUE(differs_after([](TinyRun& r) { r.state.next_sample = 0; }));
  EXPECT_TRUE(differs_after([](TinyRun& r) { r.state.next_sample -= 1; }));
  EXPECT_TRUE(differs_after([](TinyRun& r) { r.state.step = 5; }));
  EXPECT_TRUE(differs_after([](TinyRun& r) { r.state.tokens_seen = 0; }));
  EXPECT_TRUE(differs_after([](TinyRun& r) { r.state.tokens_trained -= 1; }));
  for (const char* kind : {"exp_avg.", "exp_avg_sq.", "master_low."}) {
    EXPECT_TRUE(differs_after([&](TinyRun& r) {
      at::Tensor(r.state.optim.at(kind + std::string("model.norm.weight"))).zero_();
    })) << kind;
  }
}

INSTANTIATE_TEST_SUITE_P(, Resume,
                         testing::Values(Case{"hypenet-tiny", at::kBFloat16}, Case{"hypenet-tiny", at::kFloat},
                                         Case{"hypenet-gqa-untied", at::kBFloat16},
                                         Case{"hypenet-gqa-untied", at::kFloat}, Case{"llama-tiny", at::kBFloat16},
                                         Case{"llama-tiny", at::kFloat}),
                         [](const auto& c) {
                           return test::test_name(c.param.model + (c.param.dtype == at::kFloat ? "_fp32" : "_bf16"));
                         });

}  // namespace
}  // namespace qkr
