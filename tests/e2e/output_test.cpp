// Where a run writes: one process a folder, and what becomes of it when nobody reads, or the terminal goes away.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

TEST(Output, IsOfOneProcessAtATime) {
  const TmpDir folder;
  const std::string out = (folder / "out").string();
  Process first(small_command(folder, {"--set", "train.max_steps=400", "train.epochs=400"}));
  ASSERT_TRUE(first.wait_for("step   3/400"));
  for (const char* how : {"--resume", "--requeue"}) {
    const Outcome second =
        run_program(small_command(folder, {how, "--set", "train.max_steps=400", "train.epochs=400"}));
    EXPECT_EQ(second.code, 2) << second.out;
    EXPECT_EQ(second.err, "sft-train: " + out +
                              ": output must be of one run at a time, got one that another process is at work in\n");
  }
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait().code, 4);
  const Outcome last =
      run_program(small_command(folder, {"--resume", "--set", "train.max_steps=400", "train.epochs=400", "--dry-run"}));
  EXPECT_EQ(last.code, 0) << last.err;
}

TEST(Output, OfAProbeIsOfOneProcessAtATime) {
  const TmpDir folder;
  const std::string rows = (folder / "rows.jsonl").string();
  std::vector<std::string> command = {"niah-probe", "--model", base_model().string(), "--output", rows, "--resume"};
  for (const std::string& argument : probe_arguments()) command.push_back(argument);
  for (std::string& argument : command) argument = argument == "2" ? "2000" : argument;  // --samples
  command.insert(command.end(), {"--tasks", "niah_single_1"});
  Process first(command);
  ASSERT_TRUE(first.wait_for(" prompts, greedy"));
  while (!fs::exists(rows) || fs::file_size(rows) == 0) usleep(1000);
  const Outcome second = run_program(command);
  EXPECT_EQ(second.code, 2) << second.out;
  EXPECT_EQ(second.err, "niah-probe: " + rows +
                            ": --output must be of one probe at a time, got one that another process is at work on\n");
  first.signal(SIGKILL);
}

// Killed before its config.yaml was there, a start has left nothing to go on from, and nothing that stands in the way.
TEST(Output, OfAStartThatWasKilledAtOnceIsAsGoodAsEmpty) {
  const TmpDir folder;
  folder.write("out/config.yaml.partial", "model:\n");
  folder.write("out/log.jsonl", "");
  const Outcome outcome = run_program(small_command(folder, {"--requeue"}));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(fs::exists(folder / "out" / "config.yaml.partial"));
}

TEST(Output, ThatCannotBeMadeIsRefusedBeforeAStep) {
  const TmpDir folder;
  folder.write("file", "mine");
  fs::create_symlink(folder / "nowhere" / "at-all", folder / "link");
  const std::string file = (folder / "file").string(), link = (folder / "link").string();
  const std::string long_name = (folder / std::string(300, 'x')).string();
  for (const auto& [output, says] : std::vector<std::pair<std::string, std::string>>{
           {file + "/out", file + "/out: output must be a folder that can be made, got " + file + ", which is none"},
           {long_name, long_name + ": output must be a folder that can be made, got File name too long"},
           {link, link + ": output must be a folder that can be made, got " + link + ", which is none"}}) {
    for (const char* how : {"--dry-run", "--requeue"}) {
      const Outcome outcome = run_program(small_command(folder, {how, "--output", output}));
      EXPECT_EQ(outcome.code, 2) << outcome.out;
      EXPECT_EQ(outcome.err, "sft-train: " + says + "\n");
    }
  }
  if (geteuid() == 0) return;  // may write anywhere
  fs::create_directory(folder / "mine");
  fs::permissions(folder / "mine", fs::perms::owner_read | fs::perms::owner_exec);
  const std::string inside = (folder / "mine" / "out").string();
  const Outcome outcome = run_program(small_command(folder, {"--dry-run", "--output", inside}));
  EXPECT_EQ(outcome.code, 2) << outcome.out;
  EXPECT_EQ(outcome.err, "sft-train: " + inside + ": output must be writable, got Permission denied for " +
                             (folder / "mine").string() + "\n");
}

std::string shell(const std::vector<std::string>& command) {
  std::string line = (fs::path(QKR_BINARY_DIR) / "bin" / command[0]).string();
  for (size_t i = 1; i < command.size(); ++i) line += " '" + command[i] + "'";
  return line;
}

TEST(Output, ThatNobodyReadsStopsTheRunAfterSaving) {
  const TmpDir folder;
  const std::string line = shell(small_command(folder, {"--set", "train.max_steps=4000", "train.epochs=4000"}));
  const Outcome outcome = run_program({"/bin/sh", "-c", "{ " + line + "; echo code $? >&2; } | head -n 1"});
  EXPECT_EQ(outcome.err, "code 4\n");
  EXPECT_EQ(read_json(folder / "out" / "summary.json")["status"], "stopped");
  EXPECT_FALSE(fs::is_empty(folder / "out" / "checkpoints"));
}

TEST(Output, ThatCannotBeWrittenIsSaid) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const TmpDir folder;
  const Outcome printed =
      run_program({"/bin/sh", "-c", shell(small_command(folder, {"--dump-config"})) + " > /dev/full"});
  EXPECT_EQ(printed.code, 1);
  EXPECT_EQ(printed.err, "sft-train: standard output: must be written, got no room or no reader\n");
  const Outcome trained = run_program({"/bin/sh", "-c", shell(small_command(folder)) + " > /dev/full"});
  EXPECT_EQ(trained.code, 0) << "the run's folder has it all: " << trained.err;
  EXPECT_EQ(read_json(folder / "out" / "summary.json")["status"], "finished");
}

TEST(Hangup, StopsTheRunAfterSavingButForNohup) {
  const TmpDir folder;
  const std::vector<std::string> more = {"--set", "train.max_steps=400", "train.epochs=400"};
  Process run(small_command(folder, more));
  ASSERT_TRUE(run.wait_for("step   3/400"));
  run.signal(SIGHUP);
  EXPECT_EQ(run.wait().code, 4);
  const TmpDir other;
  Process ignoring(
      {"/bin/sh", "-c",
       "trap '' HUP; exec " + shell(small_command(other, {"--set", "train.max_steps=20", "train.epochs=20"}))});
  ASSERT_TRUE(ignoring.wait_for("step  3/20"));
  ignoring.signal(SIGHUP);
  EXPECT_EQ(ignoring.wait().code, 0);
}

}  // namespace
}  // namespace qkr::test
