// qk_restore.method auto in a whole run: what it leaves, what is held out, and that a resume cannot mix it with another run.
#include <gtest/gtest.h>

#include <set>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

std::vector<std::string> auto_command(const TmpDir& folder, std::vector<std::string> more = {}) {
  std::vector<std::string> all = with_probe();
  all.insert(all.end(), {"qk_restore.held_out=4", "qk_restore.candidates=[none, plain, lerp:0.5]", "qk_restore.max_loss_increase=10",
                         "save_sft_model=true", "--qk-restore", "auto"});
  all.insert(all.end(), more.begin(), more.end());
  return small_command(folder, all);
}

// A model of random weights finds no needle, with any candidate: none is kept, and says so.
TEST(AutoRun, ScoresItsCandidatesAndKeepsNoneWhereNothingBeatsIt) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome run = run_program(auto_command(folder));
  ASSERT_EQ(run.code, 0) << run.err;
  for (const char* line : {"data     4 samples are not trained on", "restore  auto: none, plain, lerp:0.5; the held-out loss may rise by 1000.00 %",
                           "auto: 3 candidates on 3 prompts and 4 held-out rows", "auto: no loss can be told from none, nor one of ", "auto: no candidate beats none, so the tuned weights stay"}) {
    EXPECT_NE(run.out.find(line), std::string::npos) << line << "\n" << run.out;
  }
  EXPECT_EQ(read_file(out / "model" / "model.safetensors"), read_file(out / "model-sft" / "model.safetensors"));
  const nlohmann::json restore = read_json(out / "restore.json");
  EXPECT_EQ(restore["method"], "none");
  EXPECT_EQ(restore["auto"]["held_out_rows"], 4);
  ASSERT_EQ(restore["auto"]["candidates"].size(), 3u);
  for (const nlohmann::json& one : restore["auto"]["candidates"]) EXPECT_GT(one["held_out_loss"].get<double>(), 0);
  std::set<double> losses;
  for (const nlohmann::json& one : restore["auto"]["candidates"]) losses.insert(one["held_out_loss"].get<double>());
  EXPECT_EQ(losses.size(), 3u) << "three candidates, three losses";
  EXPECT_EQ(read_rows(out / "candidates.jsonl").size(), 3u * 3 + 3);  // one half each, the other half of none
  EXPECT_EQ(read_json(out / "summary.json")["method"], "auto");
  EXPECT_NE(read_file(out / "report.html").find("No candidate beats none, so the tuned weights stay."), std::string::npos);

  const std::string record = read_file(out / "restore.json");
  const Outcome again = run_program(auto_command(folder, {"--resume"}));
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(read_file(out / "restore.json"), record);
  EXPECT_EQ(read_rows(out / "candidates.jsonl").size(), 12u);
  // The other methods train on all rows, so what was begun with auto is not theirs.
  const Outcome other = run_program(small_command(folder, {"--resume", "--qk-restore", "plain"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("identity.held-out samples must be '0' as in this run, got '4'"), std::string::npos) << other.err;
}

// Held-out rows are trained on by nobody: another text in their place changes nothing but what they score.
TEST(AutoRun, HeldOutRowsAreNotTrainedOn) {
  TmpDir folder, changed;
  std::vector<std::string> rows = lines_of(read_file(source_dir() / "examples" / "tiny" / "cot.jsonl"));
  const auto losses = [&](const TmpDir& place) {
    std::string text;
    for (size_t i = 0; i < 24; ++i) text += rows[i] + "\n";
    const std::string path = place.write("rows.jsonl", text).string();
    const Outcome run = run_program(auto_command(place, {"--set", "data.train=[" + path + "]", "qk_restore.candidates=[none, plain]"}));
    EXPECT_EQ(run.code, 0) << run.err;
    return read_json(place / "out" / "restore.json")["auto"]["candidates"][0]["held_out_loss"].get<double>();
  };
  const double before = losses(folder);
  rows[9] = rows[300];  // 4 of 24: the middles 3, 9, 15, 21
  EXPECT_NE(losses(changed), before);
  EXPECT_EQ(read_file(folder / "out" / "model-sft" / "model.safetensors"), read_file(changed / "out" / "model-sft" / "model.safetensors"));
}

TEST(AutoRun, RefusesWhatItCannotScore) {
  TmpDir folder;
  const auto error = [&](std::vector<std::string> more) {
    const Outcome outcome = run_program(small_command(folder, std::move(more)));
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
    return outcome.err;
  };
  EXPECT_NE(error({"--qk-restore", "auto"}).find("probe.lengths: must hold a length where qk_restore.method is auto"), std::string::npos);
  std::vector<std::string> all_held = with_probe();
  all_held.insert(all_held.end(), {"qk_restore.held_out=24", "--qk-restore", "auto"});
  EXPECT_NE(error(all_held).find("qk_restore.held_out: must leave a row to train on, got 24 of 24 samples"), std::string::npos);
}

}  // namespace
}  // namespace qkr::test
