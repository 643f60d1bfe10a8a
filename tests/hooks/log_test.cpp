// The step line, log.jsonl and the progress bar.
#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/log_hook.h"

namespace qkr {
namespace {

using test::TmpDir;

StepReport report_of(int64_t step, int64_t total) {
  StepReport report;
  report.step = step;
  report.total_steps = total;
  report.epoch = 0.125 * static_cast<double>(step);
  report.loss = 1.23456 + static_cast<double>(step);
  report.grad_norm = 0.8754;
  report.lr = 1.5e-5;
  report.tokens = 640;
  report.trained_tokens = 320;
  report.tokens_seen = 640 * step;
  report.seconds = 0.25;
  report.tokens_per_second = 12345.6;
  report.memory_bytes = int64_t{3} << 30;
  report.eta_seconds = 130;
  return report;
}

std::vector<nlohmann::json> rows_of(const std::filesystem::path& file) {
  std::vector<nlohmann::json> rows;
  JsonLinesReader reader(file);
  while (reader.next()) rows.push_back(reader.row());
  return rows;
}

std::vector<int64_t> steps_of(const std::filesystem::path& file) {
  std::vector<int64_t> steps;
  for (const auto& row : rows_of(file)) steps.push_back(row.at("step"));
  return steps;
}

TEST(StepLine, SaysEverythingInOneLine) {
  EXPECT_EQ(step_line(report_of(12, 300)),
            "step  12/300  loss 13.2346  norm 0.875  lr 1.50e-05  12,345 tok/s  3.0 GiB  eta 2m10s");
  EXPECT_EQ(step_line(report_of(7, 7)).rfind("step 7/7  ", 0), 0u);
}

TEST(LogHook, WritesEveryStepAndPrintsEveryNthAndTheLast) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  LogConfigSection config;
  config.every = 3;
  TrainState state;
  LogHook hook(config, dir.path(), 0, console);
  for (int64_t step = 1; step <= 7; ++step) hook.after_step(report_of(step, 7), state);
  EXPECT_EQ(out.str(),
            step_line(report_of(3, 7)) + "\n" + step_line(report_of(6, 7)) + "\n" + step_line(report_of(7, 7)) + "\n");
  EXPECT_EQ(steps_of(dir / "log.jsonl"), (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
  const nlohmann::json row = rows_of(dir / "log.jsonl")[1];
  const nlohmann::json want = {{"step", 2},
                               {"epoch", 0.25},
                               {"loss", 3.23456},
                               {"grad_norm", 0.8754},
                               {"lr", 1.5e-5},
                               {"tokens", 640},
                               {"trained_tokens", 320},
                               {"tokens_seen", 1280},
                               {"seconds", 0.25},
                               {"tokens_per_second", 12345.6},
                               {"memory_bytes", int64_t{3} << 30}};
  EXPECT_EQ(row, want);
  EXPECT_FALSE(std::filesystem::is_empty(dir / "tensorboard"));
}

TEST(LogHook, WithoutTensorBoardWritesNoEvents) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  LogConfigSection config;
  config.tensorboard = false;
  LogHook hook(config, dir.path(), 0, console);
  TrainState state;
  hook.after_step(report_of(1, 2), state);
  EXPECT_FALSE(std::filesystem::exists(dir / "tensorboard"));
}

TEST(LogHook, AResumeCutsTheStepsThatWillBeDoneAgain) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  TrainState state;
  {
    LogHook first({}, dir.path(), 0, console);
    for (int64_t step = 1; step <= 5; ++step) first.after_step(report_of(step, 9), state);
  }
  std::ofstream(dir / "log.jsonl", std::ios::app) << "{\"step\": 6, \"lo";  // killed while it wrote
  {
    LogHook resumed({}, dir.path(), 3, console);
    EXPECT_EQ(steps_of(dir / "log.jsonl"), (std::vector<int64_t>{1, 2, 3}));
    resumed.after_step(report_of(4, 9), state);
  }
  EXPECT_EQ(steps_of(dir / "log.jsonl"), (std::vector<int64_t>{1, 2, 3, 4}));
  LogHook anew({}, dir.path(), 0, console);
  EXPECT_TRUE(rows_of(dir / "log.jsonl").empty());
}

TEST(LogHook, NumbersThatJsonLacksBecomeNull) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  TrainState state;
  StepReport report = report_of(1, 2);
  report.grad_norm = std::nan("");
  LogHook({}, dir.path(), 0, console).after_step(report, state);
  EXPECT_TRUE(rows_of(dir / "log.jsonl")[0].at("grad_norm").is_null());
}

TEST(ProgressBar, FillsWithItsShare) {
  EXPECT_EQ(progress_bar(0, 10), "[--------------------]");
  EXPECT_EQ(progress_bar(5, 10), "[##########----------]");
  EXPECT_EQ(progress_bar(10, 10), "[####################]");
  EXPECT_EQ(progress_bar(99, 10, 4), "[####]");
  EXPECT_EQ(progress_bar(0, 0, 4), "[----]");
  EXPECT_EQ(progress_bar(1, 3, 4), "[#---]");
}

TEST(Console, TheStatusGoesToStandardErrorAndGivesWayToLines) {
  std::ostringstream out;
  testing::internal::CaptureStderr();
  {
    Console console(out, "on");
    console.status("half way");
    console.line("a line");
    console.line("ends itself\n");
    console.status("nearly");
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "\r\033[Khalf way\r\033[K\r\033[Knearly\r\033[K");
  EXPECT_EQ(out.str(), "a line\nends itself\n");
}

TEST(Console, WithoutATerminalThereIsNoStatus) {
  for (const char* progress : {"auto", "off"}) {  // captured standard error is a file
    std::ostringstream out;
    testing::internal::CaptureStderr();
    Console console(out, progress);
    console.status("half way");
    console.line("a line");
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << progress;
    EXPECT_EQ(out.str(), "a line\n");
  }
}

}  // namespace
}  // namespace qkr
