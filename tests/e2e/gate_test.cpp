// Gates in a real run: what each action leaves, its exit code, and the same judgement after a resume. The model finds nothing.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

std::vector<std::string> gated(const TmpDir& folder, const std::string& gates, std::vector<std::string> more = {}) {
  std::vector<std::string> all = with_probe();
  all.insert(all.end(), {"probe.every=2", "probe.tasks=[niah_single_1]", "gate=" + gates});
  all.insert(all.end(), more.begin(), more.end());
  return small_command(folder, all);
}

std::vector<nlohmann::json> events_in(const fs::path& out) {
  std::vector<nlohmann::json> events = read_rows(out / "log.jsonl");
  std::erase_if(events, [](const nlohmann::json& row) { return !row.contains("event"); });
  return events;
}

std::vector<std::string> stages_in(const fs::path& out) {
  std::vector<std::string> stages;
  for (const nlohmann::json& row : read_rows(out / "probe.jsonl")) {
    if (stages.empty() || stages.back() != row["stage"]) stages.push_back(row["stage"]);
  }
  return stages;
}

TEST(Gate, WarnIsSaidAndRecorded) {
  TmpDir folder;
  const Outcome outcome = run_program(gated(folder, "[{metric: probe/niah_single_1/256, min: 1, action: warn}]"));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("gate[0], warn: recall of probe/niah_single_1/256 is 0.0% [0.0, 65.8] of 2 prompts at step-4, below min 1"), std::string::npos)
      << outcome.out;
  EXPECT_EQ(events_in(folder / "out").size(), 4u);  // start, 2, 4, end
  const nlohmann::json summary = read_json(folder / "out" / "summary.json");
  EXPECT_EQ(summary["status"], "finished");
  EXPECT_FALSE(summary.contains("message"));
  EXPECT_EQ(summary["gates"].size(), 4u);
  EXPECT_EQ(summary["gates"][0]["stage"], "start");
}

TEST(Gate, FailEndsAtOnceWithExitCode3) {
  TmpDir folder;
  const Outcome outcome = run_program(gated(folder, "[{metric: probe, min: 1, for: 2}]"));
  EXPECT_EQ(outcome.code, 3) << outcome.out;
  EXPECT_EQ(outcome.err, "sft-train: gate[0]: recall of probe is 0.0% [0.0, 65.8] of 2 prompts at step-2, below min 1, 2 measurements in a row\n");
  const nlohmann::json summary = read_json(folder / "out" / "summary.json");
  EXPECT_EQ(summary["status"], "failed");
  EXPECT_EQ(summary["steps"], 2);
  EXPECT_EQ(summary["message"], summary["gates"][0]["reason"].get<std::string>().insert(0, "gate[0]: "));
  EXPECT_FALSE(fs::exists(folder / "out" / "model"));
  EXPECT_TRUE(fs::exists(folder / "out" / "report.html"));
}

TEST(Gate, LossAboveItsBoundFails) {
  TmpDir folder;
  const Outcome outcome = run_program(small_command(folder, {"--set", "gate=[{metric: loss, max: 0.001, for: 3}]"}));
  EXPECT_EQ(outcome.code, 3);
  EXPECT_NE(outcome.err.find("at step 3, above max 0.001, 3 steps in a row"), std::string::npos) << outcome.err;
}

TEST(Gate, AtTheEndTheModelIsWrittenAllTheSame) {
  TmpDir folder;
  const Outcome outcome = run_program(gated(folder, "[{metric: probe, min: 1}]", {"probe.every=0", "probe.at=[restored]", "--qk-restore", "plain"}));
  EXPECT_EQ(outcome.code, 3) << outcome.out;
  EXPECT_NE(outcome.err.find("at restored, below min 1"), std::string::npos) << outcome.err;
  EXPECT_TRUE(fs::exists(folder / "out" / "model" / "model.safetensors"));
  EXPECT_EQ(read_json(folder / "out" / "summary.json")["status"], "finished");
}

// Saved as a signal does; on the same gates it stops again, on others it goes on to the bytes of an undisturbed run.
TEST(Gate, StopSavesAndGoesOnUnderOtherGates) {
  TmpDir folder;
  const std::string stop = "[{metric: probe, min: 1, for: 2, action: stop}]";
  const fs::path out = folder / "out";
  const Outcome stopped = run_program(gated(folder, stop, {"checkpoint.every=0", "--qk-restore", "plain"}));
  EXPECT_EQ(stopped.code, 3) << stopped.out;
  EXPECT_NE(stopped.out.find("stopped by a gate; --resume"), std::string::npos) << stopped.out;
  EXPECT_EQ(read_json(out / "summary.json")["status"], "stopped");
  EXPECT_NE(read_json(out / "summary.json")["message"].get<std::string>().find("2 measurements in a row"), std::string::npos);
  EXPECT_TRUE(fs::exists(out / "checkpoints" / "step-000002" / "progress.json"));

  const Outcome again = run_program(gated(folder, stop, {"checkpoint.every=0", "--qk-restore", "plain", "--resume"}));
  EXPECT_EQ(again.code, 3) << again.out;
  EXPECT_EQ(read_json(out / "summary.json")["steps"], 2);
  EXPECT_EQ(events_in(out).size(), 1u);

  const Outcome on = run_program(gated(folder, "[]", {"checkpoint.every=0", "--qk-restore", "plain", "--resume"}));
  ASSERT_EQ(on.code, 0) << on.err;
  EXPECT_TRUE(read_file(out / "model" / "model.safetensors") == read_file(plain_run().out() / "model" / "model.safetensors"));
}

TEST(Gate, RestoreIsMeasuredAgainAndSurvivesAResume) {
  const std::string restore = "[{metric: probe, min: 1, for: 2, action: restore}]";
  TmpDir straight, broken;
  const Outcome outcome = run_program(gated(straight, restore, {"--qk-restore", "plain", "--set", "probe.every=1"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(stages_in(straight / "out"),
            (std::vector<std::string>{"start", "step-1", "step-2", "step-2-restored", "step-3", "step-4", "step-4-restored", "step-5", "end", "restored"}));
  const std::vector<nlohmann::json> restores = read_rows(straight / "out" / "restores.jsonl");
  ASSERT_EQ(restores.size(), 2u);
  EXPECT_EQ(restores[1]["step"], 4);
  EXPECT_NE(restores[1]["reason"].get<std::string>().find("gate[0]: recall of probe is 0.0%"), std::string::npos);
  {
    Process process(gated(broken, restore, {"--qk-restore", "plain", "--set", "probe.every=1"}));
    ASSERT_TRUE(process.wait_for("probe step-3:"));
    process.signal(SIGKILL);
  }
  const Outcome resumed = run_program(gated(broken, restore, {"--qk-restore", "plain", "--resume", "--set", "probe.every=1"}));
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(read_file(broken / "out" / "model" / "model.safetensors") == read_file(straight / "out" / "model" / "model.safetensors"));
  EXPECT_EQ(stages_in(broken / "out"), stages_in(straight / "out"));
  EXPECT_EQ(read_rows(broken / "out" / "restores.jsonl"), restores);

  const Outcome other = run_program(gated(broken, "[{metric: probe, min: 2, action: restore}]", {"--qk-restore", "plain", "--resume"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("identity."), std::string::npos) << other.err;
}

// Drawn batch by batch at the start, kept for all later measurements and across a resume.
TEST(AutoSamples, AreSettledAtTheStart) {
  TmpDir folder;
  const std::vector<std::string> automatic = {"probe.samples=auto", "probe.width=30", "probe.every=0"};
  std::vector<std::string> more = automatic;
  more.push_back("train.max_steps=2");
  const Outcome outcome = run_program(gated(folder, "[]", more));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("probe start: batches of 10 prompts a cell until its interval is at most 30.0 points wide"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("probe end: 10 prompts, greedy"), std::string::npos);
  const std::vector<nlohmann::json> rows = read_rows(folder / "out" / "probe.jsonl");
  ASSERT_EQ(rows.size(), 20u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(rows[i]["id"], rows[10 + i]["id"]);
  for (const nlohmann::json& row : rows) {
    EXPECT_EQ(row["model"].get<std::string>().size(), 16u);
    EXPECT_EQ(row["tokenizer"].get<std::string>().size(), 16u);
    EXPECT_EQ(row["dtype"], "float32");
  }
  EXPECT_NE(rows[0]["model"], rows[10]["model"]) << "two steps have changed the weights";
}

TEST(Readings, BothInARunAreToldApart) {
  TmpDir folder;
  const Outcome outcome = run_program(gated(folder, "[]", {"probe.reading=both", "probe.every=0", "train.max_steps=2"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("how the two readings agree"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("niah_single_1 teacher-forced"), std::string::npos);
  EXPECT_EQ(read_rows(folder / "out" / "probe.jsonl").size(), 8u);
}

// What the first start measured is not mixed with other prompts.
TEST(Resume, AnotherHaystackOrLimitIsRefused) {
  TmpDir folder;
  const std::vector<std::string> base = {"probe.tasks=[niah_single_2]", "probe.every=0", "train.max_steps=2"};
  ASSERT_EQ(run_program(gated(folder, "[]", base)).code, 0);
  const std::string before = read_file(folder / "out" / "probe.jsonl");
  const std::string other = folder.write("other.txt", read_file(source_dir() / "examples/tiny/haystack.txt") + " One more sentence.").string();
  const auto resumed = [&](const std::string& set) {
    std::vector<std::string> more = base;
    more.insert(more.end(), {set, "--resume"});
    const Outcome outcome = run_program(gated(folder, "[]", more));
    EXPECT_EQ(outcome.code, 2) << set;
    return outcome.err;
  };
  EXPECT_NE(resumed("probe.haystack=" + other).find("haystack must be this probe's"), std::string::npos);
  EXPECT_NE(resumed("probe.max_new_tokens=9").find("must be this probe's"), std::string::npos);
  EXPECT_EQ(read_file(folder / "out" / "probe.jsonl"), before);
}

}  // namespace
}  // namespace qkr::test
