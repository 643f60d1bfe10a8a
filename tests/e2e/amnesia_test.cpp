// examples/amnesia as it is shipped: its files fit together, its model recalls, its table is made.
#include <gtest/gtest.h>

#include "tests/e2e/program.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

TEST(Amnesia, EveryConfigurationHasAllThatItsRunNeeds) {
  TmpDir folder;
  const std::string corpus = folder.write("corpus.jsonl", "{\"text\": \"One of the special magic numbers is: 17.\"}\n").string();
  const auto dry = [&](const std::string& name, std::vector<std::string> set) {
    std::vector<std::string> command = {"sft-train", "--config", "examples/amnesia/" + name, "--dry-run", "--output", (folder / "out").string(), "--set",
                                        "model.device=cpu", "model.dtype=float32"};
    command.insert(command.end(), set.begin(), set.end());
    const Outcome run = run_program(command);
    EXPECT_EQ(run.code, 0) << name << "\n" << run.err;
    EXPECT_NE(run.out.find("4,035,904 parameters, 8 layers"), std::string::npos) << run.out;
  };
  dry("base-1.yaml", {"data.train=[" + corpus + "]"});
  dry("base-2.yaml", {"data.train=[" + corpus + "]", "model.path=examples/amnesia/model", "probe.samples=1", "probe.lengths=[512]"});
  dry("sft.yaml", {"probe.samples=1", "probe.lengths=[512]"});
  dry("demo.yaml", {"probe.samples=1", "probe.lengths=[512]"});
}

TEST(Amnesia, TheBaseModelRecallsBeyondTheLengthsOfItsTraining) {
  const Outcome run = run_program({"niah-probe", "--model", "examples/amnesia/model", "--lengths", "512", "2048", "--samples", "2", "--haystack",
                                   "examples/amnesia/haystack.txt", "--reading", "teacher_forced", "--device", "cpu", "--dtype", "float32"});
  ASSERT_EQ(run.code, 0) << run.err;
  size_t cells = 0;
  for (size_t at = 0; (at = run.out.find("n=2  100.0%", at)) != std::string::npos; ++at) ++cells;
  EXPECT_EQ(cells, 6u) << run.out;
}

TEST(Amnesia, TheTableIsMadeOfRuns) {
  TmpDir folder;
  const std::string out = (folder / "table").string();
  const auto table = [](std::vector<std::string> words) {
    std::vector<std::string> command = {"/usr/bin/env", "python3", "examples/amnesia/table.py"};
    command.insert(command.end(), words.begin(), words.end());
    const Outcome run = run_program(command);
    EXPECT_EQ(run.code, 0) << run.err;
    return run.out;
  };
  table({"run", out, "--bin", QKR_BINARY_DIR "/bin", "--arms", "steps-75", "train-last-quarter", "--seeds", "1-1", "--no-start", "--problems", "1",
         "--set", "model.device=cpu", "train.max_steps=1", "train.tokens_per_step=1024", "train.micro_batch_tokens=1024",
         "probe.lengths=[256]", "probe.samples=2", "qk_restore.held_out=8"});
  const std::string text = table({"show", out + "/steps-75"}) + table({"sweep", out});
  for (const char* part : {"1 seeds; 3 prompts and 1 problems a seed and method.", "| before fine-tuning |", "| `none` |", "| `plain` − `none` |",
                           "| `steps-75` | 1 |", "| `train-last-quarter` | 1 |"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  }
}

}  // namespace
}  // namespace qkr::test
