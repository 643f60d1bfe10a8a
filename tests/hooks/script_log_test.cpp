// What other hooks measure, in log.jsonl and TensorBoard.
#include <gtest/gtest.h>

#include <sstream>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/log_hook.h"

namespace qkr {
namespace {

TEST(LogOfHooks, ValuesJoinTheRowOfTheStepOrHaveOneOfTheirOwn) {
  const test::TmpDir folder;
  std::ostringstream out;
  Console console(out, "off");
  TrainState state;
  {
    LogHook log({}, folder.path(), 0, console);
    StepReport report;
    for (report.step = 1; report.step <= 2; ++report.step) {
      if (report.step == 1)
        log.add_to_next_row({{"hook/a/x", 1.5}, {"hook/a/nan", std::numeric_limits<double>::quiet_NaN()}});
      log.after_step(report, state);
      if (report.step == 1) log.write_apart(1, "on_probe step-1", {{"hook/b/y", 2.5}});
      log.write_apart(report.step, "on_end", {});  // nothing measured, no row
    }
  }
  JsonLinesReader rows(folder / "log.jsonl");
  ASSERT_TRUE(rows.next());
  EXPECT_EQ(rows.row()["hook/a/x"], 1.5);
  EXPECT_TRUE(rows.row()["hook/a/nan"].is_null());
  ASSERT_TRUE(rows.next());
  EXPECT_EQ(rows.row(), (nlohmann::json{{"step", 1}, {"event", "on_probe step-1"}, {"hook/b/y", 2.5}}));
  ASSERT_TRUE(rows.next());
  EXPECT_EQ(rows.row()["step"], 2);
  EXPECT_FALSE(rows.row().contains("hook/a/x"));
  EXPECT_FALSE(rows.next());
  const std::string events = test::read_file(std::filesystem::directory_iterator(folder / "tensorboard")->path());
  for (const char* tag : {"hook/a/x", "hook/b/y", "train/loss"}) EXPECT_NE(events.find(tag), std::string::npos) << tag;
}

}  // namespace
}  // namespace qkr
