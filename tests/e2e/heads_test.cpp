// probe.heads and niah-probe --heads: what they leave, and how they go on.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

std::vector<std::string> probe_command(const TmpDir& folder, std::vector<std::string> more = {}) {
  std::vector<std::string> command = {"niah-probe", "--model", base_model().string(), "--tasks", "niah_single_1", "vt", "--heads",
                                      (folder / "heads.jsonl").string()};
  const std::vector<std::string> probe = probe_arguments();
  command.insert(command.end(), probe.begin(), probe.end());
  const auto lengths = std::find(command.begin(), command.end(), "--lengths");
  if (lengths != command.end()) *(lengths + 1) = "1800";
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

TEST(Heads, ARunWritesThemBesideRecallAndTheReportShowsThem) {
  TmpDir folder;
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {"--qk-restore", "plain", "--set", "probe.heads=true", "probe.samples=3"});
  const Outcome run = run_program(small_command(folder, more));
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_NE(run.out.find("  heads on the needle: layer "), std::string::npos) << run.out;
  const auto heads = read_rows(folder / "out" / "heads.jsonl"), recall = read_rows(folder / "out" / "probe.jsonl");
  ASSERT_EQ(heads.size(), recall.size());
  std::map<std::string, std::vector<nlohmann::json>> by_stage;
  for (size_t i = 0; i < heads.size(); ++i) {
    for (const char* key : {"stage", "id", "task", "length", "model"}) EXPECT_EQ(heads[i][key], recall[i][key]);
    EXPECT_EQ(heads[i]["layers"].size(), heads[i]["mass"].size());
    by_stage[heads[i]["stage"]].push_back(heads[i]["mass"]);
  }
  EXPECT_NE(by_stage["start"], by_stage["end"]);
  const std::string page = read_file(folder / "out" / "report.html");
  EXPECT_NE(page.find("Which heads find the needle"), std::string::npos);
  EXPECT_NE(page.find("Attention on the needle by layer and head, restored"), std::string::npos);
}

TEST(Heads, NiahProbeGoesOnWithThePromptsThatAreMissing) {
  TmpDir folder;
  const std::filesystem::path file = folder / "heads.jsonl";
  const Outcome first = run_program(probe_command(folder));
  ASSERT_EQ(first.code, 0) << first.err;
  const std::string text = read_file(file);
  const std::vector<nlohmann::json> rows = read_rows(file);
  ASSERT_EQ(rows.size(), 4u);
  for (const nlohmann::json& row : rows) {
    EXPECT_LT(row["needle"][0], row["needle"][1]);
    EXPECT_LT(row["needle"][1], row["answer"][0]);
    EXPECT_EQ(row["model"].get<std::string>().size(), 16u);
  }
  const Outcome again = run_program(probe_command(folder));
  EXPECT_EQ(again.code, 2);
  EXPECT_NE(again.err.find("heads.jsonl: --heads must not exist yet (--resume goes on with it)"), std::string::npos) << again.err;
  std::ofstream(file, std::ios::trunc) << text.substr(0, text.find('\n') + 30);  // as killed within the second row
  ASSERT_EQ(run_program(probe_command(folder, {"--resume"})).code, 0);
  EXPECT_EQ(read_rows(file), rows);
}

TEST(Heads, PromptsWithoutANeedleAreRefused) {
  TmpDir folder;
  folder.write("own.jsonl", "{\"prompt\": \"Two and two?\", \"answer\": \"four\"}\n");
  const Outcome run = run_program({"niah-probe", "--model", base_model().string(), "--prompts", (folder / "own.jsonl").string(), "--heads",
                                   (folder / "heads.jsonl").string(), "--device", "cpu"});
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("--heads must not stand beside --prompts, which have no needles"), std::string::npos) << run.err;
}

TEST(Heads, OneFileIsNotForTwoModels) {
  TmpDir folder;
  const std::string model = base_model().string();
  const Outcome run = run_program({"niah-probe", "--compare", model, model, "--lengths", "600", "--samples", "1", "--heads", (folder / "heads.jsonl").string(),
                                   "--device", "cpu"});
  EXPECT_EQ(run.code, 2);
  EXPECT_NE(run.err.find("--output and --heads must not stand beside --compare"), std::string::npos) << run.err;
}

}  // namespace
}  // namespace qkr::test
