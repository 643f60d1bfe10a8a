// What hooks ask of the loop.
#include <gtest/gtest.h>

#include "tests/loop/support.h"

namespace qkr {
namespace {

TEST(Requests, FinishEndsTheRunAsIfItsPlanHadEnded) {
  auto samples = test::tiny_samples({31, 7, 48, 12, 25});
  auto rows = test::row_each(samples);
  test::TinyRun run(test::busy_config(), test::tiny_decoder("llama-tiny", at::kFloat), std::move(samples), std::move(rows));
  test::TestHook& hook = run.add_hook();
  std::vector<RunEnd> ends;
  hook.step = [&](const StepReport& report, TrainState&) { run.requests.finish = report.step == 3; };
  hook.after = [&](RunEnd end, TrainState&) { ends.push_back(end); };
  EXPECT_EQ(run.go(), RunEnd::kFinished);
  EXPECT_EQ(run.state.step, 3);
  EXPECT_EQ(ends, std::vector<RunEnd>{RunEnd::kFinished});
}

// As after a resume: the hook that had asked says so before the first step.
TEST(Requests, FinishBeforeTheFirstStepDoesNone) {
  auto samples = test::tiny_samples({31, 7});
  auto rows = test::row_each(samples);
  test::TinyRun run(test::busy_config(), test::tiny_decoder("llama-tiny", at::kFloat), std::move(samples), std::move(rows));
  run.add_hook().before = [&](TrainState&) { run.requests.finish = true; };
  EXPECT_EQ(run.go(), RunEnd::kFinished);
  EXPECT_EQ(run.state.step, 0);
}

}  // namespace
}  // namespace qkr
