// A run that is stopped or killed, and goes on: the model at its end has the bytes of an undisturbed run's.
#include <gtest/gtest.h>
#include <signal.h>

#include <memory>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

std::vector<std::string> plain_command(const TmpDir& folder, std::vector<std::string> more = {}) {
  more.insert(more.begin(), {"--qk-restore", "plain", "--set", "save_sft_model=true"});
  return small_command(folder, more);
}

// Everything that a step computes; how long it took and what memory it had is the machine's.
std::vector<nlohmann::json> computed(const fs::path& out) {
  std::vector<nlohmann::json> rows = read_rows(out / "log.jsonl");
  for (nlohmann::json& row : rows) {
    for (const char* differs : {"seconds", "tokens_per_second", "memory_bytes"}) row.erase(differs);
  }
  return rows;
}

void expect_as_undisturbed(const fs::path& out) {
  ASSERT_EQ(plain_run().outcome.code, 0) << plain_run().outcome.err;
  for (const char* file : {"model/model.safetensors", "model-sft/model.safetensors", "snapshot.safetensors", "restore.json"}) {
    EXPECT_TRUE(read_file(out / file) == read_file(plain_run().out() / file)) << file << " differs";
  }
  EXPECT_EQ(computed(out), computed(plain_run().out()));
  EXPECT_EQ(read_json(out / "summary.json")["status"], "finished");
  EXPECT_EQ(read_json(out / "summary.json")["steps"], 6);
}

std::string tail(const Outcome& outcome) { return outcome.out + outcome.err; }

// Starts a run and sends SIGTERM after its third step; tries again where the run was faster than the signal.
struct StoppedRun {
  TmpDir folder;
  Outcome outcome;
};

std::unique_ptr<StoppedRun> stop_after_third_step() {
  std::unique_ptr<StoppedRun> run;
  for (int attempt = 0; attempt < 5; ++attempt) {
    run = std::make_unique<StoppedRun>();
    Process process(plain_command(run->folder));
    process.wait_for("step 3/");
    process.signal(SIGTERM);
    run->outcome = process.wait();
    if (run->outcome.code != 0) break;
  }
  return run;
}

TEST(Stopped, BySigtermSavesAndResumesToTheSameBytes) {
  const auto run = stop_after_third_step();
  const fs::path out = run->folder / "out";
  ASSERT_EQ(run->outcome.code, 4) << tail(run->outcome);
  EXPECT_EQ(run->outcome.err, "");
  EXPECT_NE(run->outcome.out.find("--resume"), std::string::npos) << run->outcome.out;
  EXPECT_EQ(read_json(out / "summary.json")["status"], "stopped");
  const int64_t steps = read_json(out / "summary.json")["steps"];
  EXPECT_GE(steps, 3);
  EXPECT_LT(steps, 6);
  EXPECT_TRUE(fs::exists(out / "checkpoints" / ("step-00000" + std::to_string(steps)) / "progress.json"));
  EXPECT_FALSE(fs::exists(out / "model"));
  EXPECT_FALSE(fs::exists(out / "restore.json"));

  const Outcome fresh = run_program(plain_command(run->folder));
  EXPECT_EQ(fresh.code, 2) << "a second start without --resume must not touch it";

  const Outcome resumed = run_program(plain_command(run->folder, {"--resume"}));
  ASSERT_EQ(resumed.code, 0) << tail(resumed);
  EXPECT_EQ(resumed.out.find("step " + std::to_string(steps) + "/6"), std::string::npos) << "a step was done twice";
  expect_as_undisturbed(out);
}

// What a scheduler starts again and again: the first start, a start after a stop, and one after the end.
TEST(Requeued, TheSameLineStartsAndGoesOn) {
  TmpDir folder;
  const std::vector<std::string> line = plain_command(folder, {"--requeue"});
  Process first(line);
  first.wait_for("step 3/");
  first.signal(SIGTERM);
  const Outcome stopped = first.wait();
  ASSERT_TRUE(stopped.code == 4 || stopped.code == 0) << tail(stopped);  // 0: the run was faster than the signal
  const Outcome second = run_program(line);
  EXPECT_EQ(second.code, 0) << tail(second);
  expect_as_undisturbed(folder / "out");
}

// A folder of something else is not taken for a run's.
TEST(Requeued, AFolderThatNoRunMadeIsRefused) {
  TmpDir folder;
  fs::create_directories(folder / "out");
  std::ofstream(folder / "out" / "thesis.tex") << "mine";
  const Outcome outcome = run_program(plain_command(folder, {"--requeue"}));
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("output must be empty or absent"), std::string::npos) << outcome.err;
  EXPECT_EQ(read_file(folder / "out" / "thesis.tex"), "mine");
}

TEST(Stopped, RunIsNotResumedAsAnother) {
  const auto run = stop_after_third_step();
  ASSERT_EQ(run->outcome.code, 4) << tail(run->outcome);
  const fs::path out = run->folder / "out";
  const auto contents = [&] {
    std::string all;
    for (const std::string& name : files_below(out)) all += name + "\n" + read_file(out / name);
    return all;
  };
  const std::string before = contents();
  const std::string rows = read_file(source_dir() / "examples" / "tiny" / "cot.jsonl");
  const std::string other_rows = run->folder.write("rows.jsonl", rows.substr(rows.find('\n') + 1)).string();
  struct Change {
    std::string set, says;
  };
  for (const Change& change : {Change{"optim.lr=2.0e-3", "identity.optim.lr must be '0.002' as in this run, got '0.001'"},
                               Change{"train.seed=2", "identity.train.seed must be '2'"},
                               Change{"data.train=[" + other_rows + "]", "identity.data.train must be '["},
                               Change{"data.limit=23", "identity.data.limit must be '23' as in this run, got '24'"}}) {
    const Outcome outcome = run_program(plain_command(run->folder, {"--resume", "--set", change.set}));
    EXPECT_EQ(outcome.code, 2) << change.set << tail(outcome);
    ASSERT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find("progress.json: "), std::string::npos) << outcome.err;
    EXPECT_NE(outcome.err.find(change.says), std::string::npos) << "wanted: " << change.says << "\ngot: " << outcome.err;
    EXPECT_EQ(contents(), before) << "a refused resume changed the folder";
  }
}

TEST(Stopped, RunIsNotResumedOnChangedRows) {
  const auto run = std::make_unique<StoppedRun>();
  std::string rows = read_file(source_dir() / "examples" / "tiny" / "cot.jsonl");
  const std::string path = run->folder.write("rows.jsonl", rows).string();
  const std::vector<std::string> more = {"--set", "data.train=[" + path + "]", "train.max_steps=2"};
  ASSERT_EQ(run_program(small_command(run->folder, more)).code, 0);
  rows.replace(rows.find("answer is 81"), 12, "answer is 80");
  run->folder.write("rows.jsonl", rows);
  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome outcome = run_program(small_command(run->folder, again));
  EXPECT_EQ(outcome.code, 2) << tail(outcome);
  EXPECT_NE(outcome.err.find("identity.digest of the tokens and masks must be"), std::string::npos) << outcome.err;
}

// The weights are in the checkpoint, what they mean is in the model's folder.
TEST(Stopped, RunIsNotResumedOnAChangedArchitecture) {
  TmpDir folder;
  copy_folder(base_model(), folder / "model");
  const std::vector<std::string> more = {"--set", "model.path=" + (folder / "model").string(), "train.max_steps=2"};
  ASSERT_EQ(run_program(small_command(folder, more)).code, 0);
  nlohmann::json config = read_json(folder / "model" / "config.json");
  config["rms_norm_eps"] = 1e-3;
  folder.write("model/config.json", config.dump());
  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome outcome = run_program(small_command(folder, again));
  EXPECT_EQ(outcome.code, 2) << tail(outcome);
  EXPECT_NE(outcome.err.find("identity.digest of config.json must be"), std::string::npos) << outcome.err;
}

TEST(Stopped, RunIsNotResumedFromAFlippedBit) {
  TmpDir folder;
  const std::vector<std::string> more = {"--set", "train.max_steps=2"};
  ASSERT_EQ(run_program(small_command(folder, more)).code, 0);
  const fs::path file = folder / "out" / "checkpoints" / "step-000002" / "optim.safetensors";
  std::string bytes = read_file(file);
  bytes[bytes.size() / 2] ^= 4;
  std::ofstream(file, std::ios::binary) << bytes;
  const Outcome outcome = run_program(small_command(folder, {"--set", "train.max_steps=2", "--resume"}));
  EXPECT_EQ(outcome.code, 2) << tail(outcome);
  EXPECT_EQ(outcome.err.rfind("sft-train: " + file.string() + ": must have the bytes that were saved, of digest ", 0), 0u) << outcome.err;
  EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
}

// What a run needs of its base model is in its own folder: the weights in the checkpoint, the first start's W_Q and W_K.
TEST(Stopped, RunKeepsItsSnapshotIfTheBaseModelHasChanged) {
  TmpDir folder;
  copy_folder(base_model(), folder / "model");
  const std::vector<std::string> more = {"--set", "model.path=" + (folder / "model").string()};
  {
    Process process(plain_command(folder, more));
    ASSERT_TRUE(process.wait_for("step 3/6"));
    process.signal(SIGKILL);
  }
  fs::remove(folder / "model" / "model.safetensors");
  fs::copy_file(plain_run().out() / "model-sft" / "model.safetensors", folder / "model" / "model.safetensors");
  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome resumed = run_program(plain_command(folder, again));
  ASSERT_EQ(resumed.code, 0) << tail(resumed);
  for (const char* file : {"model/model.safetensors", "model-sft/model.safetensors", "restore.json"}) {
    EXPECT_TRUE(read_file(folder / "out" / file) == read_file(plain_run().out() / file)) << file << " differs";
  }
}

// Killed behind a step's checkpoint and before that step's measurement: the resumed run makes up for it.
TEST(KilledRun, MeasuresWhatItsStepOwes) {
  TmpDir folder;
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {"probe.every=2", "checkpoint.keep=9"});
  ASSERT_EQ(run_program(plain_command(folder, more)).code, 0);
  const fs::path out = folder / "out", probe = out / "probe.jsonl";
  const std::vector<nlohmann::json> whole = rows_of(probe);
  std::string kept;
  for (const std::string& line : lines_of(read_file(probe))) {
    if (line.find("\"start\"") != std::string::npos || line.find("\"step-2\"") != std::string::npos) kept += line + "\n";
  }
  folder.write("out/probe.jsonl", kept);
  fs::remove_all(out / "checkpoints" / "step-000006");
  for (const char* made : {"model", "model-sft", "restore.json", "summary.json", "report.html"}) fs::remove_all(out / made);
  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome resumed = run_program(plain_command(folder, again));
  ASSERT_EQ(resumed.code, 0) << tail(resumed);
  EXPECT_EQ(rows_of(probe), whole);
}

// kill -9 as soon as the run has said a certain thing, on the way and in what happens at its end.
class Killed : public ::testing::TestWithParam<const char*> {};

TEST_P(Killed, RunGoesOnToTheSameBytes) {
  TmpDir folder;
  {
    Process process(plain_command(folder));
    ASSERT_TRUE(process.wait_for(GetParam()));
    process.signal(SIGKILL);
    const Outcome outcome = process.wait();
    ASSERT_TRUE(outcome.code == -SIGKILL || outcome.code == 0) << tail(outcome);  // 0: it was faster than the signal
  }
  const Outcome resumed = run_program(plain_command(folder, {"--resume"}));
  ASSERT_EQ(resumed.code, 0) << tail(resumed);
  expect_as_undisturbed(folder / "out");
  for (const std::string& name : files_below(folder / "out")) EXPECT_EQ(name.find(".partial"), std::string::npos) << name;
}

std::string moment_name(const ::testing::TestParamInfo<const char*>& info) {
  static const char* const kNames[] = {"BeforeACheckpoint", "OffACheckpoint", "AtTheLastStep", "BetweenExportAndRestore", "AfterTheExport"};
  return kNames[info.index];
}

INSTANTIATE_TEST_SUITE_P(, Killed, ::testing::Values("step 1/6", "step 3/6", "step 6/6", "/model-sft\n", "/out/model\n"), moment_name);

TEST(KilledRun, AgainAndAgainLosesNothing) {
  TmpDir folder;
  for (const char* next : {"step 2/6", "step 4/6", "step 5/6", "step 6/6"}) {
    const bool started = fs::exists(folder / "out" / "config.yaml");
    Process process(plain_command(folder, started ? std::vector<std::string>{"--resume"} : std::vector<std::string>{}));
    process.wait_for(next);
    process.signal(SIGKILL);
    process.wait();
  }
  ASSERT_EQ(run_program(plain_command(folder, {"--resume"})).code, 0);
  expect_as_undisturbed(folder / "out");
}

}  // namespace
}  // namespace qkr::test
