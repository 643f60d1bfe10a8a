// hooks: the examples in real runs, what they measure checked against the files of the run; what they ask for; how they
// fail.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>

#include "tests/e2e/small_run.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {
namespace {

std::string example(const char* name) { return (source_dir() / "examples" / "hooks" / name).string(); }

Outcome run_with(const TmpDir& folder, const std::string& hooks, std::vector<std::string> more = {}) {
  std::vector<std::string> arguments = {"--set", "hooks=" + hooks, "save_sft_model=true"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run_program(small_command(folder, arguments));
}

SafetensorsFile weights(const fs::path& folder) { return SafetensorsFile(folder / "model.safetensors"); }

fs::path checkpoint(const fs::path& out, int step) {
  return out / "checkpoints" / ("step-00000" + std::to_string(step));
}

nlohmann::json row_of(const fs::path& out, int64_t step, const std::string& event = "") {
  for (const nlohmann::json& row : read_rows(out / "log.jsonl")) {
    if (row["step"] == step && row.value("event", "") == event) return row;
  }
  return nullptr;
}

// As after a kill between a checkpoint and the end.
void take_back_to(const fs::path& out, int step) {
  for (const char* made : {"model", "model-sft", "restore.json", "summary.json", "report.html"})
    fs::remove_all(out / made);
  for (int later = step + 1; later <= 6; ++later) fs::remove_all(checkpoint(out, later));
}

TEST(ScriptHooks, DriftMonitorMeasuresWhatTheFilesSay) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome outcome =
      run_with(folder, "[{script: " + example("drift.ts") + ", every: 2}]", {"--qk-restore", "procrustes"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(
      outcome.out.find(
          "hook     drift every 2: on_start on_step; reads weights; at most 60 s a call, an error ends the run\n"),
      std::string::npos)
      << outcome.out;
  EXPECT_FALSE(row_of(out, 1).contains("hook/drift/moved/max"));
  const SafetensorsFile base = weights(base_model()), tuned = weights(out / "model-sft");
  double most = 0, total = 0, change = 0, size = 0;
  int64_t matrices = 0;
  for (const std::string& name : base.names()) {
    const at::Tensor before = base.tensor(name), after = tuned.tensor(name);
    if (before.dim() != 2) continue;
    const double moved = ((after - before).norm() / before.norm()).item<double>();
    most = std::max(most, moved);
    total += moved;
    ++matrices;
    if (name.find("q_proj.weight") == std::string::npos && name.find("k_proj.weight") == std::string::npos) continue;
    change += (after - before).square().sum().item<double>();
    size += before.square().sum().item<double>();
  }
  const nlohmann::json last = row_of(out, 6);
  EXPECT_NEAR(last["hook/drift/moved/max"].get<double>(), most, 1e-6 * most);
  EXPECT_NEAR(last["hook/drift/moved/mean"].get<double>(), total / static_cast<double>(matrices), 1e-6);
  EXPECT_NEAR(last["hook/drift/routing/moved"].get<double>(), std::sqrt(change / size), 1e-5);
  EXPECT_GT(last["hook/drift/routing/rotation"], 0);
  EXPECT_GT(last["hook/drift/moved/max"], row_of(out, 2)["hook/drift/moved/max"]);
  const std::string events = read_file(out / "tensorboard" / files_below(out / "tensorboard").at(0));
  EXPECT_NE(events.find("hook/drift/routing/rotation"), std::string::npos);
  EXPECT_NE(read_file(out / "report.html").find("\"loss\""), std::string::npos);
}

TEST(ScriptHooks, ReadingChangesNothing) {
  TmpDir folder;
  const Outcome outcome =
      run_with(folder, "[{script: " + example("drift.ts") + "}, {script: " + example("noise_scale.ts") + "}]",
               {"--qk-restore", "plain"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  ASSERT_EQ(plain_run().outcome.code, 0);
  EXPECT_TRUE(read_file(folder / "out" / "model-sft" / "model.safetensors") ==
              read_file(plain_run().out() / "model-sft" / "model.safetensors"));
}

// From Adam's moments in the checkpoints, by the two equations of the example.
TEST(ScriptHooks, NoiseScaleFollowsFromTheMoments) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome outcome =
      run_with(folder, "[{script: " + example("noise_scale.ts") + "}]", {"--set", "checkpoint.keep=9"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_FALSE(row_of(out, 1).contains("hook/noise_scale/scale")) << "one gradient has no spread";
  const SafetensorsFile optim(checkpoint(out, 6) / "optim.safetensors");
  double v = 0, m = 0;
  for (const std::string& name : optim.names()) {
    const at::Tensor value = optim.tensor(name).to(at::kDouble);
    if (name.rfind("exp_avg_sq.", 0) == 0) v += value.sum().item<double>() / (1 - std::pow(0.95, 6));
    if (name.rfind("exp_avg.", 0) == 0) m += value.square().sum().item<double>() / std::pow(1 - std::pow(0.9, 6), 2);
  }
  const double share = 0.1 / 1.9 * (1 + std::pow(0.9, 6)) / (1 - std::pow(0.9, 6)), noise = (v - m) / (1 - share);
  EXPECT_NEAR(row_of(out, 6)["hook/noise_scale/noise"].get<double>(), noise, 1e-6 * noise);
  EXPECT_NEAR(row_of(out, 6)["hook/noise_scale/gradient_square"].get<double>(), v - noise, 1e-6 * v);
}

const std::string& ema_hook() {
  static const std::string text = "[{script: " + example("ema.ts") + ", writes: [\"*\"]}]";
  return text;
}

TEST(ScriptHooks, EmaTakesThePlaceOfTheLastWeights) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome outcome = run_with(folder, ema_hook(), {"--set", "checkpoint.every=1", "checkpoint.keep=9"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::map<std::string, at::Tensor> average;
  for (int step = 1; step <= 6; ++step) {
    const SafetensorsFile saved = weights(checkpoint(out, step));
    const double decay = (1.0 + step) / (10.0 + step);
    for (const std::string& name : saved.names()) {
      if (step == 1) average[name] = saved.tensor(name).clone();
      average[name].lerp_(saved.tensor(name), 1.0 - decay);
    }
  }
  const SafetensorsFile model = weights(out / "model");
  for (const std::string& name : model.names()) EXPECT_TRUE(same_bytes(model.tensor(name), average.at(name))) << name;
  EXPECT_FALSE(same_bytes(model.tensor("model.norm.weight"), weights(checkpoint(out, 6)).tensor("model.norm.weight")));
}

// A resumed run has the model's bytes and the hook's numbers of an undisturbed one.
TEST(ScriptHooks, StateSurvivesAResume) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const std::vector<std::string> more = {"--qk-restore", "plain", "--set", "checkpoint.keep=9"};
  ASSERT_EQ(run_with(folder, ema_hook(), more).code, 0);
  const std::string model = read_file(out / "model" / "model.safetensors");
  const nlohmann::json last = row_of(out, 6);
  take_back_to(out, 4);
  EXPECT_TRUE(fs::exists(checkpoint(out, 4) / "hook-scripts.ema.pt"));
  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome resumed = run_with(folder, ema_hook(), again);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_TRUE(read_file(out / "model" / "model.safetensors") == model);
  EXPECT_EQ(row_of(out, 6)["hook/ema/distance"], last["hook/ema/distance"]);
  EXPECT_EQ(read_rows(out / "log.jsonl").size(), 6u);
  // Another script is another run.
  take_back_to(out, 4);
  const std::string other = folder.write("ema.ts", read_file(example("ema.ts")) + "# changed\n").string();
  const Outcome refused = run_with(folder, "[{script: " + other + ", writes: [\"*\"]}]", again);
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.err.find("identity.hook ema must be 'sha256 "), std::string::npos) << refused.err;
}

// A random model finds nothing, so recall is never better: stop after the second measurement that was no better than
// the first.
TEST(ScriptHooks, EarlyStopEndsTheRunAsFinished) {
  TmpDir folder;
  const fs::path out = folder / "out";
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {"probe.every=1", "--qk-restore", "plain"});
  const std::string hooks = "[{script: " + example("early_stop.ts") + "}]";
  const Outcome outcome = run_with(folder, hooks, more);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("hook early_stop asks for stop\n"), std::string::npos) << outcome.out;
  EXPECT_EQ(read_json(out / "summary.json")["steps"], 2);
  EXPECT_EQ(read_json(out / "summary.json")["status"], "finished");
  EXPECT_TRUE(fs::exists(out / "model" / "model.safetensors"));
  EXPECT_EQ(row_of(out, 2, "on_probe step-2")["hook/early_stop/waited"], 2.0);
  EXPECT_EQ(row_of(out, 0, "on_probe start")["hook/early_stop/best"], 0.0);
  EXPECT_EQ(row_of(out, 2)["hook/early_stop/waited"], nullptr);
  EXPECT_EQ(read_file(out / "report.html").find("twice"), std::string::npos) << "a hook's own row is no step";
  // The checkpoint of step 2 is older than its probe: a resume tells the script again what the probe found, and ends
  // there too.
  const std::string model = read_file(out / "model" / "model.safetensors");
  take_back_to(out, 2);
  more.push_back("--resume");
  const Outcome resumed = run_with(folder, hooks, more);
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  EXPECT_EQ(read_json(out / "summary.json")["steps"], 2);
  EXPECT_TRUE(read_file(out / "model" / "model.safetensors") == model);
}

TEST(ScriptHooks, RequestsAreCarriedOutAfterTheSameStep) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const std::string script =
      folder
          .write("asks.ts", "def on_step(self, step: int) -> List[str]:\n  return [\"probe\", \"restore\", \"save\"]\n")
          .string();
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {"checkpoint.every=0", "probe.at=[start]", "--qk-restore", "plain"});
  const Outcome outcome = run_with(folder, "[{script: " + script + ", every: 3}]", more);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  std::set<std::string> stages;
  for (const nlohmann::json& row : read_rows(out / "probe.jsonl")) stages.insert(row["stage"]);
  EXPECT_EQ(stages, (std::set<std::string>{"start", "step-3", "step-6"}));
  ASSERT_EQ(read_rows(out / "restores.jsonl").size(), 1u) << "the last step's is the end's";
  EXPECT_EQ(read_rows(out / "restores.jsonl")[0]["step"], 3);
  const SafetensorsFile saved = weights(checkpoint(out, 3)), base = weights(base_model());
  EXPECT_TRUE(same_bytes(saved.tensor("model.layers.1.self_attn.q_proj.weight"),
                         base.tensor("model.layers.1.self_attn.q_proj.weight")));
  EXPECT_FALSE(same_bytes(saved.tensor("model.layers.1.self_attn.v_proj.weight"),
                          base.tensor("model.layers.1.self_attn.v_proj.weight")));
}

struct Failure {
  const char* name;
  const char* source;
  const char* says;  // behind the script's path
};

class FailingHook : public testing::TestWithParam<Failure> {};

TEST_P(FailingHook, EndsTheRunOrIsSwitchedOff) {
  TmpDir folder;
  const fs::path out = folder / "out";
  const std::string script = folder.write("bad.ts", GetParam().source).string();
  const std::string says = script + GetParam().says;
  const Outcome ended = run_with(folder, "[{script: " + script + ", every: 2, timeout: 1}]");
  EXPECT_EQ(ended.code, 1) << ended.out;
  EXPECT_EQ(ended.err, "sft-train: " + says + "\n");
  EXPECT_EQ(read_json(out / "summary.json")["status"], "failed");

  fs::remove_all(out);
  const Outcome off = run_with(folder, "[{script: " + script + ", every: 2, timeout: 1, on_error: off}]");
  EXPECT_EQ(off.code, 0) << off.err;
  const std::string line = "hook bad is switched off: " + says + "\n";
  const size_t first = off.out.find(line);
  EXPECT_NE(first, std::string::npos) << off.out;
  EXPECT_EQ(off.out.find(line, first + 1), std::string::npos) << "once";
  const SafetensorsFile state(checkpoint(out, 4) / "hook-scripts.safetensors");
  EXPECT_EQ(nlohmann::json::parse(state.metadata().at("asked"))["off"], nlohmann::json{"bad"});
}

INSTANTIATE_TEST_SUITE_P(
    , FailingHook,
    testing::Values(
        Failure{"throws", "def on_step(self, step: int):\n  assert step < 2, \"two is too many\"\n",
                ":2: on_step: AssertionError: two is too many"},
        Failure{
            "writes", "def on_step(self, weights: Dict[str, Tensor]):\n  weights[\"model.norm.weight\"].add_(1.0)\n",
            ":2: on_step: aten::add_: weights[model.norm.weight] must not be written to: no pattern of the hook's `writes` matches it"},
        Failure{"hangs", "def on_step(self):\n  i = 0\n  while i >= 0:\n    i = (i + 1) % 1000\n",
                ":1: on_step: must come back within 1 second, is left behind before its first tensor operation"},
        Failure{"asks", "def on_step(self) -> List[str]:\n  return [\"restore\"]\n",
                ": on_step: restore must have a qk_restore.method that acts during a run, got none or auto"}),
    [](const auto& with) { return with.param.name; });

TEST(ScriptHooks, AnErrorInTheSourceIsFoundBeforeAnythingIsWritten) {
  TmpDir folder;
  const std::string script =
      folder.write("bad.ts", "def on_step(self, step: int):\n  return {\"x\": stepp}\n").string();
  const Outcome outcome = run_with(folder, "[{script: " + script + "}]", {"--dry-run"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "sft-train: " + script + ":2: undefined value stepp\n");
  EXPECT_FALSE(fs::exists(folder / "out"));
  const Outcome pattern =
      run_with(folder, "[{script: " + example("ema.ts") + ", writes: [\"model.nrom.weight\"]}]", {"--dry-run"});
  EXPECT_EQ(
      pattern.err,
      "sft-train: hooks[0].writes: 'model.nrom.weight' must match a weight of the model, got none; did you mean model.norm.weight?\n");
}

// A module of Python's making, with a buffer and plain attributes, run without Python and resumed.
TEST(ScriptHooks, SavedModuleRunsAndResumes) {
  const fs::path ours = source_dir() / "build" / "venv" / "bin" / "python";
  const char* given = std::getenv("QKR_HF_PYTHON");
  const fs::path python = given != nullptr ? fs::path(given) : ours;
  QKR_NEED_PATH(python);
  TmpDir folder;
  const fs::path out = folder / "out";
  const Outcome made = run_program({python.string(), example("make_pt.py"), (folder / "spikes.pt").string()});
  ASSERT_EQ(made.code, 0) << made.err;
  const std::string hooks = "[{script: " + (folder / "spikes.pt").string() + "}]";
  ASSERT_EQ(run_with(folder, hooks, {"--set", "checkpoint.keep=9"}).code, 0);
  double mean = 0;
  for (int step = 1; step <= 6; ++step) {
    mean += (row_of(out, step)["grad_norm"].get<double>() - mean) / std::min(step, 20);
    EXPECT_NEAR(row_of(out, step)["hook/spikes/mean_norm"].get<double>(), mean, 1e-12 * mean);
  }
  const nlohmann::json last = row_of(out, 6);
  take_back_to(out, 4);
  ASSERT_EQ(run_with(folder, hooks, {"--set", "checkpoint.keep=9", "--resume"}).code, 0);
  EXPECT_EQ(row_of(out, 6)["hook/spikes/mean_norm"], last["hook/spikes/mean_norm"]);
}

}  // namespace
}  // namespace qkr::test
