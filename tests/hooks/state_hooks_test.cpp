// Hooks that write the state: checkpoints, the restore, the exported model.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/loop/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using test::busy_config;
using test::copy_of;
using test::expect_same_tensors;
using test::row_each;
using test::same_bytes;
using test::tiny_decoder;
using test::tiny_samples;
using test::tiny_source;
using test::TinyRun;
using test::TmpDir;

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};

std::unique_ptr<TinyRun> start(int64_t steps, at::ScalarType dtype, const std::string& model = "hypenet-tiny") {
  RunConfig config = busy_config();
  config.train.max_steps = steps;
  return std::make_unique<TinyRun>(config, tiny_decoder(model, dtype), tiny_samples(kLengths),
                                   row_each(tiny_samples(kLengths)));
}

std::set<std::string> names_in(const fs::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.insert(entry.path().filename().string());
  return names;
}

// Stops the run after `step`.
void stop_after(TinyRun& run, int64_t step) {
  run.add_hook().step = [&run, step](const StepReport& report, TrainState&) {
    if (report.step == step) run.stop = true;
  };
}

std::unique_ptr<CheckpointHook> checkpoints(int64_t every, int64_t keep, const fs::path& folder, Console& console) {
  CheckpointConfigSection config;
  config.every = every;
  config.keep = keep;
  return std::make_unique<CheckpointHook>(config, folder, Identity{{"data", "abc"}}, console);
}

TEST(CheckpointHook, SavesEveryFewStepsAndKeepsTheNewest) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const auto run = start(7, at::kBFloat16);
  run->hooks.push_back(checkpoints(2, 2, dir / "checkpoints", console));
  std::vector<std::set<std::string>> seen;
  NamedTensors at_six;
  run->add_hook().step = [&](const StepReport& report, TrainState& state) {
    if (fs::exists(dir / "checkpoints")) seen.push_back(names_in(dir / "checkpoints"));
    if (report.step == 6) at_six = copy_of(state.weights);
  };
  EXPECT_EQ(run->go(), RunEnd::kFinished);
  const std::set<std::string> two = {"step-000002"}, two_four = {"step-000002", "step-000004"},
                              four_six = {"step-000004", "step-000006"};
  EXPECT_EQ(seen, (std::vector<std::set<std::string>>{two, two, two_four, two_four, four_six, four_six}));
  EXPECT_EQ(names_in(dir / "checkpoints"), four_six);  // a finished run needs none of its last step
  const auto loaded = start(7, at::kBFloat16);
  const Progress progress = load_checkpoint(checkpoint_path(dir / "checkpoints", 6), loaded->state);
  EXPECT_EQ(progress.step, 6);
  EXPECT_EQ(progress.identity.at("data"), "abc");
  expect_same_tensors(loaded->state.weights, at_six);
  EXPECT_NE(out.str().find("checkpoint " + (dir / "checkpoints" / "step-000006").string()), std::string::npos);
}

TEST(CheckpointHook, SavesWhereASignalStopsTheRunAndOnlyOnce) {
  for (const int64_t stop : {6, 7}) {
    const TmpDir dir;
    std::ostringstream out;
    Console console(out, "off");
    const auto run = start(20, at::kFloat);
    run->hooks.push_back(checkpoints(3, 2, dir / "checkpoints", console));
    stop_after(*run, stop);
    EXPECT_EQ(run->go(), RunEnd::kStopped);
    const std::set<std::string> want = stop == 6 ? std::set<std::string>{"step-000003", "step-000006"}
                                                 : std::set<std::string>{"step-000006", "step-000007"};
    EXPECT_EQ(names_in(dir / "checkpoints"), want);
    const auto loaded = start(20, at::kFloat);
    load_checkpoint(*latest_checkpoint(dir / "checkpoints"), loaded->state);
    test::expect_same_state(loaded->state, run->state);
  }
}

TEST(CheckpointHook, WithoutAnIntervalSavesOnAStopAlone) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const auto whole = start(4, at::kFloat);
  whole->hooks.push_back(checkpoints(0, 1, dir / "whole", console));
  whole->go();
  EXPECT_FALSE(fs::exists(dir / "whole"));
  const auto stopped = start(4, at::kFloat), at_once = start(4, at::kFloat);
  stopped->hooks.push_back(checkpoints(0, 1, dir / "stopped", console));
  stop_after(*stopped, 2);
  stopped->go();
  EXPECT_EQ(names_in(dir / "stopped"), (std::set<std::string>{"step-000002"}));
  at_once->hooks.push_back(checkpoints(0, 1, dir / "at_once", console));
  at_once->stop = true;
  at_once->go();  // nothing was done, so there is nothing to save
  EXPECT_FALSE(fs::exists(dir / "at_once"));
}

Snapshot snapshot_of(const Decoder& decoder, const RestoreConfigSection& config) {
  return take_snapshot(decoder.weights(), layers_to_keep(mixer_layers(decoder.architecture()), config));
}

struct Restored {
  std::unique_ptr<TinyRun> run;
  NamedTensors pre, tuned;
  nlohmann::json json;
};

Restored restored(const TmpDir& dir, const std::string& method, const std::string& model, Console& console) {
  Restored r;
  r.run = start(4, at::kBFloat16, model);
  r.pre = copy_of(r.run->state.weights);
  RestoreConfigSection config;
  config.method = method;
  const Snapshot snapshot = snapshot_of(r.run->decoder, config);
  r.run->add_hook().after = [&](RunEnd, TrainState& state) { r.tuned = copy_of(state.weights); };
  r.run->hooks.push_back(std::make_unique<RestoreHook>(config, snapshot, dir / "restore.json", console));
  EXPECT_EQ(r.run->go(), RunEnd::kFinished);
  r.json = nlohmann::json::parse(test::read_file(dir / "restore.json"));
  return r;
}

TEST(RestoreHook, PlainPutsTheRoutingWeightsBackAndResetsTheirMasters) {
  for (const std::string model : {"hypenet-tiny", "qwen2-tiny"}) {
    const TmpDir dir;
    std::ostringstream out;
    Console console(out, "off");
    const Restored r = restored(dir, "plain", model, console);
    std::set<std::string> back;
    for (const RoutingNames& layer : r.run->decoder.routing_names()) {
      for (const std::string& name : {layer.q_weight, layer.k_weight, layer.q_bias, layer.k_bias}) {
        if (!name.empty()) back.insert(name);
      }
    }
    ASSERT_EQ(back.size(), model == "qwen2-tiny" ? 12u : 4u);
    for (const auto& [name, weight] : r.run->state.weights) {
      EXPECT_FALSE(same_bytes(r.tuned.at(name), r.pre.at(name))) << name;
      EXPECT_TRUE(same_bytes(weight, back.count(name) != 0 ? r.pre.at(name) : r.tuned.at(name))) << name;
      const bool low_is_zero = r.run->state.optim.at("master_low." + name).count_nonzero().item<int64_t>() == 0;
      EXPECT_EQ(low_is_zero, back.count(name) != 0) << name;
    }
    EXPECT_EQ(r.json.at("method"), "plain");
    ASSERT_EQ(r.json.at("layers").size(), r.run->decoder.routing_names().size());
    for (const auto& layer : r.json.at("layers")) EXPECT_GT(layer.at("q_change").get<double>(), 0);
    EXPECT_NE(out.str().find("restore plain: W_Q and W_K of " + std::to_string(r.run->decoder.routing_names().size()) + " softmax layers"), std::string::npos) << out.str();
    EXPECT_NE(out.str().find("moved by SFT: Q "), std::string::npos) << out.str();
  }
}

TEST(RestoreHook, ProcrustesWritesItsCertificateAndLandsBetween) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const Restored r = restored(dir, "procrustes", "hypenet-tiny", console);
  for (const RoutingNames& layer : r.run->decoder.routing_names()) {
    const at::Tensor& w = r.run->state.weights.at(layer.q_weight);
    EXPECT_FALSE(same_bytes(w, r.tuned.at(layer.q_weight)));
    EXPECT_FALSE(same_bytes(w, r.pre.at(layer.q_weight)));
    EXPECT_EQ(r.run->state.optim.at("master_low." + layer.q_weight).count_nonzero().item<int64_t>(), 0);
  }
  for (const auto& layer : r.json.at("layers")) {
    EXPECT_TRUE(layer.contains("certificate")) << layer;
    EXPECT_LE(layer.at("residual_after").get<double>(), layer.at("residual_before").get<double>());
  }
  EXPECT_NE(out.str().find("|R - I|"), std::string::npos) << out.str();
}

// restore.json and the console say what was done in each method's own terms.
TEST(RestoreHook, EveryMethodTellsWhatItDid) {
  struct Case {
    const char *method, *model, *key, *line;
  };
  for (const Case c : {Case{"lerp:0.5", "hypenet-tiny", "residual_after", "restore lerp:0.5: W_Q and W_K of 2 softmax layers"},
                       {"qkv", "hypenet-tiny", "v_change", "restore qkv: W_Q, W_K and W_V of 2 softmax layers"},
                       {"qk-pro", "qwen2-tiny", "corrected", "  Q taken back "},
                       {"qk-pro-bilinear", "hypenet-tiny", "lambda_max", "  lambda "},
                       {"procrustes-head", "qwen2-tiny", "free_coordinates", "  |A - I| "}}) {
    const TmpDir dir;
    std::ostringstream out;
    Console console(out, "off");
    const Restored r = restored(dir, c.method, c.model, console);
    EXPECT_EQ(r.json.at("method"), c.method);
    EXPECT_TRUE(r.json.at("layers")[0].at(c.key).is_number()) << c.method;
    EXPECT_NE(out.str().find(c.line), std::string::npos) << out.str();
    EXPECT_FALSE(r.json.at("layers")[0].at("written").empty());
    for (const auto& layer : r.json.at("layers")) {
      for (const std::string name : layer.at("written")) {
        EXPECT_EQ(r.run->state.optim.at("master_low." + name).count_nonzero().item<int64_t>(), 0) << name;
      }
    }
  }
}

TEST(RestoreHook, LeavesAStoppedRunAlone) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const auto run = start(6, at::kFloat);
  const ModelSource source = tiny_source("hypenet-tiny");
  RestoreConfigSection config;
  config.method = "plain";
  const Snapshot snapshot = snapshot_of(run->decoder, config);
  stop_after(*run, 3);
  NamedTensors tuned;
  run->add_hook().after = [&](RunEnd, TrainState& state) { tuned = copy_of(state.weights); };
  run->hooks.push_back(std::make_unique<RestoreHook>(config, snapshot, dir / "restore.json", console));
  run->hooks.push_back(std::make_unique<ExportHook>(dir / "model", source, console));
  EXPECT_EQ(run->go(), RunEnd::kStopped);
  expect_same_tensors(run->state.weights, tuned);
  EXPECT_FALSE(fs::exists(dir / "restore.json"));
  EXPECT_FALSE(fs::exists(dir / "model"));
}

TEST(ExportHook, WritesAFolderThatLoadsAgain) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const ModelSource source = tiny_source("hypenet-gqa-untied");
  const auto run = start(2, at::kBFloat16, "hypenet-gqa-untied");
  run->hooks.push_back(std::make_unique<ExportHook>(dir / "model", source, console));
  run->go();
  const ModelSource written = ModelSource::read((dir / "model").string(), "checkpoint");
  expect_same_tensors(load_decoder(written, at::kBFloat16, at::kCPU).weights(), run->state.weights);
  EXPECT_EQ(nlohmann::json::parse(written.config_json).at("dtype"), "bfloat16");
  EXPECT_NE(out.str().find("model " + (dir / "model").string()), std::string::npos);
  dir.write("model/stale.txt", "of the first end");
  run->go();  // at its end already: the folder is written anew, not refused
  EXPECT_FALSE(fs::exists(dir / "model" / "stale.txt"));
  EXPECT_FALSE(fs::exists(dir / "model.new"));
  expect_same_tensors(load_decoder(written, at::kBFloat16, at::kCPU).weights(), run->state.weights);
}

// A second end that fails half way leaves the first one's model; what it left is no hindrance to a third.
TEST(ExportHook, KeepsTheOldModelUntilTheNewOneIsWhole) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const auto run = start(2, at::kBFloat16, "hypenet-gqa-untied");
  ModelSource source = tiny_source("hypenet-gqa-untied");
  ExportHook hook(dir / "model", source, console);
  hook.after_run(RunEnd::kFinished, run->state);
  const std::string first = test::read_file(dir / "model" / "model.safetensors");
  const std::string folder = source.folder;
  source.folder = (dir / "gone").string();  // fails after the weights are written
  EXPECT_THROW(hook.after_run(RunEnd::kFinished, run->state), std::exception);
  EXPECT_EQ(test::read_file(dir / "model" / "model.safetensors"), first);
  EXPECT_TRUE(fs::exists(dir / "model" / "config.json"));
  source.folder = folder;
  dir.write("model.new", "left");
  hook.after_run(RunEnd::kFinished, run->state);
  EXPECT_EQ(test::read_file(dir / "model" / "model.safetensors"), first);
  EXPECT_FALSE(fs::exists(dir / "model.new"));
}

// A run that is stopped before its first step after a resume: its checkpoint is there already.
TEST(CheckpointHook, DoesNotWriteTheOneThatItWasResumedFromAgain) {
  const TmpDir dir;
  std::ostringstream out;
  Console console(out, "off");
  const auto run = start(4, at::kBFloat16, "hypenet-gqa-untied");
  const CheckpointConfigSection config;
  run->state.step = 2;
  save_checkpoint(checkpoint_path(dir / "checkpoints", 2), run->state);
  CheckpointHook hook(config, dir / "checkpoints", Identity{}, console);
  hook.before_run(run->state);
  EXPECT_NO_THROW(hook.after_run(RunEnd::kStopped, run->state));
  EXPECT_EQ(out.str(), "");
  run->state.step = 3;
  hook.after_run(RunEnd::kStopped, run->state);
  EXPECT_TRUE(fs::exists(checkpoint_path(dir / "checkpoints", 3) / "progress.json"));
}

}  // namespace
}  // namespace qkr
