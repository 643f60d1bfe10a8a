// qk_restore.at: every N in a run of a tiny model: what goes back when, what the optimizer does, and a resume across it.
#include "trainer/hooks/restore_every.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "ops/adamw_split.h"
#include "tests/loop/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/io/json_lines.h"
#include "trainer/optim/moments.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};

RestoreConfigSection section(const std::string& method, const std::string& moments, int64_t every = 3) {
  RestoreConfigSection s;
  s.method = method;
  s.at = "every " + std::to_string(every);
  s.optimizer_state = moments;
  return s;
}

struct EveryRun {
  EveryRun(const TmpDir& dir, const RestoreConfigSection& restore, int64_t steps = 8, at::ScalarType dtype = at::kBFloat16,
           bool freeze = false, int64_t resumed_step = 0)
      : console(out, "off"), run(config_of(steps, freeze), tiny_decoder("qwen2-tiny", dtype), tiny_samples(kLengths), row_each(tiny_samples(kLengths))),
        snapshot(take_snapshot(run.decoder.weights(), layers_to_keep(mixer_layers(run.decoder.architecture()), restore))) {
    pre = copy_of(run.state.weights);
    run.add_hook().step = [this](const StepReport&, TrainState& state) {
      before_weights = copy_of(state.weights);
      before_optim = copy_of(state.optim);
    };
    run.hooks.push_back(std::make_unique<RestoreEveryHook>(restore, snapshot, dir / "restores.jsonl", resumed_step, console));
    CheckpointConfigSection every_step;
    every_step.every = 1;
    every_step.keep = 100;
    run.hooks.push_back(std::make_unique<CheckpointHook>(every_step, dir / "checkpoints", Identity{}, console));
  }
  static RunConfig config_of(int64_t steps, bool freeze) {
    RunConfig config = busy_config();
    config.train.max_steps = steps;
    config.train.freeze_qk = freeze;
    return config;
  }

  // Calls `look` after each step, when the restore has been.
  void after_each(std::function<void(int64_t, TrainState&)> look) {
    run.add_hook().step = [look = std::move(look)](const StepReport& report, TrainState& state) { look(report.step, state); };
  }

  std::ostringstream out;
  Console console;
  TinyRun run;
  Snapshot snapshot;
  NamedTensors pre, before_weights, before_optim;
};

double max_abs_of(const at::Tensor& t) { return t.abs().max().item<double>(); }
bool is_zero(const at::Tensor& t) { return t.count_nonzero().item<int64_t>() == 0; }

std::vector<nlohmann::json> rows_of(const std::filesystem::path& file) {
  std::vector<nlohmann::json> rows;
  JsonLinesReader reader(file);
  while (reader.next()) rows.push_back(reader.row());
  return rows;
}

// At steps 3 and 6 of 8: the written weights have the snapshot's bytes, their masters are those weights, their moments what was
// asked for; everything else is as it was.
TEST(RestoreEvery, PutsTheWeightsBackAndTheOptimizerFollows) {
  for (const std::string moments : {"reset", "keep"}) {
    const TmpDir dir;
    EveryRun every(dir, section("plain", moments));
    int64_t restored = 0;
    every.after_each([&](int64_t step, TrainState& state) {
      const bool due = step == 3 || step == 6;
      for (const auto& [name, weight] : state.weights) {
        const bool back = due && every.snapshot.tensors().contains(name);
        restored += back ? 1 : 0;
        EXPECT_TRUE(same_bytes(weight, (back ? every.pre : every.before_weights).at(name))) << step << name;
        const at::Tensor &low = state.optim.at("master_low." + name), &was_low = every.before_optim.at("master_low." + name);
        EXPECT_TRUE(back ? is_zero(low) : same_bytes(low, was_low)) << step << name;
        if (back) {
          EXPECT_TRUE(at::equal(join_master(weight, low), weight.to(at::kFloat))) << name;
        }
        for (const char* moment : {"exp_avg.", "exp_avg_sq."}) {
          const at::Tensor &now = state.optim.at(moment + name), &was = every.before_optim.at(moment + name);
          EXPECT_TRUE(back && moments == "reset" ? is_zero(now) : same_bytes(now, was)) << step << moment << name;
        }
      }
    });
    every.run.go();
    EXPECT_EQ(restored, 2 * 12);  // q, k and their biases of three layers
    const std::vector<nlohmann::json> rows = rows_of(dir / "restores.jsonl");
    ASSERT_EQ(rows.size(), 2u);
    EXPECT_EQ(rows[0].at("step"), 3);
    EXPECT_EQ(rows[1].at("step"), 6);
    EXPECT_EQ(rows[1].at("optimizer_state"), moments);
    EXPECT_EQ(rows[1].at("layers").size(), 3u);
    EXPECT_NE(every.out.str().find("restore plain: W_Q and W_K of 3 softmax layers, which SFT had moved by "), std::string::npos) << every.out.str();
  }
}

TEST(RestoreEvery, RotatesTheMomentsWithTheWeights) {
  const TmpDir dir;
  const RestoreConfigSection rotate = section("procrustes", "rotate");
  EveryRun every(dir, rotate, 5);
  int64_t turned = 0, dropped = 0;
  every.after_each([&](int64_t step, TrainState& state) {
    if (step != 3) return;
    NamedTensors weights = copy_of(every.before_weights), optim = copy_of(every.before_optim);
    Rotations rotations;
    restore(weights, every.snapshot, rotate, &rotations);
    for (const auto& [name, kept] : every.snapshot.tensors()) {
      EXPECT_TRUE(same_bytes(state.weights.at(name), weights.at(name))) << name;
      EXPECT_TRUE(is_zero(state.optim.at("master_low." + name))) << name;
      const auto r = rotations.find(name);
      if (r == rotations.end()) {  // biases went back as they were
        EXPECT_TRUE(is_zero(state.optim.at("exp_avg." + name)) && is_zero(state.optim.at("exp_avg_sq." + name))) << name;
        ++dropped;
        continue;
      }
      EXPECT_LE(max_abs_of(at::mm(r->second.t(), r->second) - at::eye(r->second.size(0), at::kDouble)), 1e-12);
      const at::Tensor mean = at::mm(every.before_optim.at("exp_avg." + name).to(at::kDouble), r->second).to(at::kFloat);
      EXPECT_TRUE(same_bytes(state.optim.at("exp_avg." + name), mean)) << name;
      const at::Tensor want = at::mm(every.pre.at(name).to(at::kDouble), r->second);
      EXPECT_LE(max_abs_of(state.weights.at(name).to(at::kDouble) - want), 0x1p-8 * max_abs_of(want)) << "restored = W_pre R";
      EXPECT_FALSE(same_bytes(mean, every.before_optim.at("exp_avg." + name))) << name;
      ++turned;
    }
  });
  every.run.go();
  EXPECT_EQ(turned, 6);
  EXPECT_EQ(dropped, 6);
}

// From any checkpoint, of a restoring step, the one before or the one after: the bits of the undisturbed run.
TEST(RestoreEvery, AResumeAcrossItIsBitExact) {
  for (const RestoreConfigSection& config : {section("plain", "reset"), section("procrustes", "rotate"), section("procrustes", "keep")}) {
    for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
      const TmpDir dir;
      EveryRun whole(dir, config, 8, dtype);
      whole.run.go();
      for (const int64_t from : {2, 3, 4, 6}) {
        const TmpDir other;
        std::filesystem::copy_file(dir / "restores.jsonl", other / "restores.jsonl");
        EveryRun resumed(other, config, 8, dtype, false, from);
        load_checkpoint(checkpoint_path(dir / "checkpoints", from), resumed.run.state);
        resumed.run.go();
        expect_same_state(resumed.run.state, whole.run.state);
        EXPECT_EQ(rows_of(other / "restores.jsonl"), rows_of(dir / "restores.jsonl")) << from;
      }
    }
  }
}

// The last step is left to the restore at the end, which the probe looks at from both sides.
TEST(RestoreEvery, NotAfterTheLastStep) {
  const TmpDir dir;
  EveryRun every(dir, section("plain", "reset", 4), 8);
  every.run.go();
  ASSERT_EQ(rows_of(dir / "restores.jsonl").size(), 1u);
  EXPECT_FALSE(same_bytes(every.run.state.weights.at("model.layers.0.self_attn.q_proj.weight"), every.pre.at("model.layers.0.self_attn.q_proj.weight")));
}

// Frozen weights have no optimizer state and have not moved: nothing to do for them, and nothing breaks.
TEST(RestoreEvery, GoesWithFrozenWeights) {
  for (const std::string method : {"plain", "procrustes"}) {
    const TmpDir one, two;
    EveryRun every(one, section(method, method == "plain" ? "reset" : "rotate"), 5, at::kBFloat16, true), never(two, section("none", "reset", 100), 5, at::kBFloat16, true);
    every.run.go();
    never.run.go();
    expect_same_state(every.run.state, never.run.state);
  }
}

TEST(RestoreEvery, TheIntervalIsReadFromTheConfiguration) {
  RestoreConfigSection s;
  EXPECT_EQ(restore_interval(s), 0);
  s.at = "every 200";
  EXPECT_EQ(restore_interval(s), 200);
  s.at = "every 0";
  EXPECT_NE(QKR_MESSAGE_OF(restore_interval(s)).find("every N must have a whole number N >= 1, got every 0"), std::string::npos);
}

}  // namespace
}  // namespace qkr
