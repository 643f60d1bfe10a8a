// niah-probe --samples auto: batches until the intervals are narrow, a budget, the same prompts after a kill.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/e2e/program.h"
#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

std::vector<std::string> automatic(const std::string& output, const std::vector<std::string>& more) {
  std::vector<std::string> command = {"niah-probe", "--model", "examples/tiny/model", "--tasks", "niah_single_1", "niah_single_2", "--lengths", "600",
                                      "--samples", "auto", "--max-new-tokens", "4", "--device", "cpu", "--dtype", "float32",
                                      "--haystack", "examples/tiny/haystack.txt", "--output", output};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::map<std::string, int64_t> counts(const std::vector<nlohmann::json>& rows) {
  std::map<std::string, int64_t> cells;
  for (const nlohmann::json& row : rows) ++cells[row["task"].get<std::string>() + " " + row["reading"].get<std::string>()];
  return cells;
}

// Four new tokens hold no value: 10 prompts give [0, 27.8], 20 give [0, 16.1].
TEST(NiahAuto, GoesOnUntilTheIntervalsAreNarrowAndAfterAKill) {
  TmpDir folder;
  const std::string file = (folder / "a.jsonl").string();
  const Outcome outcome = run_program(automatic(file, {"--width", "20"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("batches of 10 prompts a cell until its interval is at most 20.0 points wide, 500 at most"), std::string::npos) << outcome.out;
  const std::vector<nlohmann::json> whole = rows_of(file);
  EXPECT_EQ(counts(whole), (std::map<std::string, int64_t>{{"niah_single_1 generate", 20}, {"niah_single_2 generate", 20}}));

  const std::string text = read_file(file);  // as killed within the second batch
  size_t at = 0;
  for (int line = 0; line < 27; ++line) at = text.find('\n', at) + 1;
  std::ofstream(file, std::ios::binary | std::ios::trunc) << text.substr(0, at + 40);
  const Outcome again = run_program(automatic(file, {"--width", "20", "--resume"}));
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(rows_of(file), whole);

  const Outcome wider = run_program(automatic(file, {"--width", "30", "--resume"}));  // satisfied with what is there
  ASSERT_EQ(wider.code, 0) << wider.err;
  EXPECT_EQ(rows_of(file), whole);
  const Outcome other = run_program(automatic(file, {"--width", "20", "--seed", "7", "--resume"}));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.err.find("prompt must be this probe's"), std::string::npos) << other.err;
}

TEST(NiahAuto, HeadsAreLookedAtInAllPromptsMeasured) {
  TmpDir folder;
  const std::string file = (folder / "a.jsonl").string(), heads = (folder / "heads.jsonl").string();
  const Outcome outcome = run_program(automatic(file, {"--width", "1", "--max-samples", "13", "--heads", heads}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::vector<std::string> measured, looked_at;
  for (const nlohmann::json& row : rows_of(file)) measured.push_back(row["id"]);
  for (const nlohmann::json& row : rows_of(heads)) looked_at.push_back(row["id"]);
  std::sort(measured.begin(), measured.end());  // by batches there, by cells here
  std::sort(looked_at.begin(), looked_at.end());
  EXPECT_EQ(measured.size(), 26u);
  EXPECT_EQ(looked_at, measured);
}

TEST(NiahAuto, ABudgetAndBothReadings) {
  TmpDir folder;
  const std::string file = (folder / "a.jsonl").string();
  const Outcome outcome = run_program(automatic(file, {"--width", "1", "--max-samples", "12", "--reading", "both"}));
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const auto& [cell, count] : counts(rows_of(file))) EXPECT_EQ(count, 12) << cell;
  EXPECT_EQ(counts(rows_of(file)).size(), 4u);
  EXPECT_NE(outcome.out.find("How the two readings agree"), std::string::npos);
}

TEST(NiahAuto, SaysWhatIsWrongInItsOwnWords) {
  const auto error = [](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"niah-probe", "--model", "examples/tiny/model", "--lengths", "600"};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run_program(command);
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_EQ(error({"--samples", "many"}), "niah-probe: --samples: must be an integer or auto, got 'many'\n");
  EXPECT_EQ(error({"--samples", "0"}), "niah-probe: --samples: must be >= 1, got '0'\n");
  EXPECT_EQ(error({"--samples", "auto", "--width", "0"}), "niah-probe: --width: must be > 0 and <= 100, got '0'\n");
  EXPECT_EQ(error({"--samples", "auto", "--max-samples", "0"}), "niah-probe: --max-samples: must be >= 1, got '0'\n");
}

}  // namespace
}  // namespace qkr::test
