// Method auto at the end of a run of a tiny model, whose prompts are made so that one candidate answers them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/loop/support.h"
#include "tests/support/byte_codec.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/auto_restore.h"
#include "trainer/io/json_lines.h"
#include "trainer/probe/record.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary

RunConfig auto_config(const TmpDir& dir) {
  RunConfig config = busy_config();
  config.train.max_steps = 4;
  config.output = dir.path().string();
  config.probe.tasks = {"niah_single_1"};
  config.probe.lengths = {1024};
  config.probe.samples = 6;
  config.probe.max_new_tokens = 24;
  config.qk_restore.method = "auto";
  config.qk_restore.candidates = {"none", "procrustes-head", "lerp:1", "plain", "q"};
  config.qk_restore.max_loss_increase = 100;
  return config;
}

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};

// As if the fine-tuning had scattered W_Q and W_K of the softmax layers: four steps alone would not change what the model says.
void scatter(const NamedTensors& weights) {
  at::manual_seed(50);
  for (const auto& [name, weight] : weights) {
    const bool softmax = name.find("layers.1.") != std::string::npos || name.find("layers.3.") != std::string::npos;
    if (softmax && (name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos)) {
      at::Tensor(weight).detach().copy_(at::randn(weight.sizes()));
    }
  }
}

struct AutoRun {
  AutoRun(const TmpDir& dir, const RunConfig& run_config, std::vector<NeedleItem> with_items)
      : config(run_config),
        console(out, "off"),
        run(config, tiny_decoder("hypenet-tiny", at::kBFloat16), tiny_samples(kLengths), row_each(tiny_samples(kLengths))),
        snapshot(take_snapshot(run.decoder.weights(), layers_to_keep(mixer_layers(run.decoder.architecture()), config.qk_restore))),
        probe(config.probe, run.decoder, letter_codec(), std::move(with_items), dir / "probe.jsonl", 0, console) {
    pre = copy_of(run.state.weights);
    run.add_hook().after = [](RunEnd, TrainState& state) { scatter(state.weights); };
    run.hooks.push_back(std::make_unique<ProbeHook>(config.probe, probe));
    run.add_hook().after = [this](RunEnd, TrainState& state) {
      tuned = copy_of(state.weights);
      tuned_optim = copy_of(state.optim);
    };
    run.hooks.push_back(std::make_unique<AutoRestoreHook>(config, snapshot, run.decoder, held_out(), probe, console));
  }

  static std::vector<Batch> held_out() {
    const std::vector<Sample> samples = tiny_samples({20, 33, 9}, 7);
    return {make_batch(samples, {{0, 2}}), make_batch(samples, {{1}})};
  }

  RunConfig config;
  std::ostringstream out;
  Console console;
  TinyRun run;
  Snapshot snapshot;
  RecallProbe probe;
  NamedTensors pre, tuned, tuned_optim;
};

std::vector<NeedleItem> items_of(const RunConfig& config) { return draw_items(config.probe, nullptr, letter_codec()); }

// Items whose answers are what the model says with `method` in the place of the tuned weights.
std::vector<NeedleItem> items_answered_by(const std::string& method) {
  const TmpDir dir;
  RunConfig config = auto_config(dir);
  std::vector<NeedleItem> items = items_of(config);
  AutoRun run(dir, config, items);
  run.run.hooks.resize(2);  // the reports, and what scatters
  run.run.go();
  config.qk_restore.method = method;
  restore(run.run.state.weights, run.snapshot, config.qk_restore);
  const std::vector<ItemResult> said = run.probe.measure_some("made", 4, items);
  scatter(run.run.state.weights);
  const std::vector<ItemResult> tuned = run.probe.measure_some("tuned", 4, items);
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].value = said[i].prediction;
    EXPECT_NE(said[i].prediction, tuned[i].prediction) << i;
  }
  return items;
}

std::map<std::string, std::vector<nlohmann::json>> rows_by_stage(const std::filesystem::path& file) {
  std::map<std::string, std::vector<nlohmann::json>> rows;
  JsonLinesReader reader(file);
  while (reader.next()) rows[reader.row().at("stage")].push_back(reader.row());
  return rows;
}

TEST(AutoRestore, TheCandidateThatAnswersIsChosenAndStays) {
  const TmpDir dir;
  AutoRun auto_run(dir, auto_config(dir), items_answered_by("plain"));
  ASSERT_EQ(auto_run.run.go(), RunEnd::kFinished);
  const nlohmann::json json = nlohmann::json::parse(read_file(dir / "restore.json")), found = json.at("auto");
  EXPECT_EQ(found.at("chosen"), "plain") << auto_run.out.str();
  EXPECT_EQ(json.at("method"), "plain");
  int64_t back = 0;
  for (const auto& [name, weight] : auto_run.run.state.weights) {
    const bool routing = name.find("layers.1.self_attn.q_proj") != std::string::npos || name.find("layers.1.self_attn.k_proj") != std::string::npos ||
                         name.find("layers.3.self_attn.q_proj") != std::string::npos || name.find("layers.3.self_attn.k_proj") != std::string::npos;
    EXPECT_TRUE(same_bytes(weight, (routing ? auto_run.pre : auto_run.tuned).at(name))) << name;
    const at::Tensor low = auto_run.run.state.optim.at("master_low." + name);
    EXPECT_TRUE(same_bytes(low, routing ? at::zeros_like(low) : auto_run.tuned_optim.at("master_low." + name))) << name;
    back += routing ? 1 : 0;
  }
  EXPECT_EQ(back, 4);
  const nlohmann::json& candidates = found.at("candidates");
  EXPECT_EQ(candidates[1].at("standing"), "refused");
  EXPECT_NE(candidates[1].at("reason").get<std::string>().find("QK-norm gains"), std::string::npos);
  EXPECT_EQ(candidates[2].at("hits"), candidates[0].at("hits")) << "lerp:1 is the tuned weights";
  EXPECT_EQ(candidates[2].at("held_out_loss"), candidates[0].at("held_out_loss"));
  EXPECT_EQ(candidates[3].at("hits"), 3) << "one half of six prompts";
  EXPECT_EQ(candidates[3].at("held_out_loss"), mean_loss(auto_run.run.decoder, AutoRun::held_out())) << "plain is in place now";
  EXPECT_NE(candidates[0].at("held_out_loss"), candidates[3].at("held_out_loss"));
  EXPECT_EQ(found.at("other_half").at("chosen").at("hits"), 3);
  EXPECT_EQ(found.at("held_out_rows"), 3);
  for (const char* line : {"auto: 5 candidates on 3 prompts and 3 held-out rows", "auto: chose plain\n", "restore plain: W_Q and W_K of 2 softmax layers",
                           "probe restored: 6 prompts, measured above"}) {
    EXPECT_NE(auto_run.out.str().find(line), std::string::npos) << line << "\n" << auto_run.out.str();
  }
}

// candidates.jsonl holds all that the table was counted from; the two halves share no prompt; "restored" is what would be measured.
TEST(AutoRestore, RowsAreThoseOfTheTable) {
  const TmpDir dir;
  AutoRun auto_run(dir, auto_config(dir), items_answered_by("plain"));
  auto_run.run.go();
  const auto rows = rows_by_stage(dir / "candidates.jsonl"), probed = rows_by_stage(dir / "probe.jsonl");
  ASSERT_EQ(rows.size(), 4u);  // the refused one was not measured
  EXPECT_EQ(rows.at("none").size(), 6u);
  EXPECT_EQ(rows.at("plain").size(), 6u);
  EXPECT_EQ(rows.at("lerp:1").size(), 3u);
  EXPECT_EQ(rows.at("q").size(), 3u);
  for (const auto& [stage, all] : rows) {
    for (size_t i = 0; i < all.size(); ++i) {
      EXPECT_EQ(all[i].at("index").get<int64_t>() % 2, i < 3 ? 0 : 1) << stage << i;
      EXPECT_EQ(all[i].at("step"), 4);
    }
  }
  const std::vector<ItemResult> again = auto_run.probe.measure_some("restored", 4, auto_run.probe.items());
  ASSERT_EQ(probed.at("restored").size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    nlohmann::json want = nlohmann::json::parse(to_json(again[i]).dump()), got = probed.at("restored")[i];
    want.erase("seconds");
    got.erase("seconds");
    EXPECT_EQ(got, want) << i;
  }
  EXPECT_TRUE(auto_run.probe.has("restored"));
}

TEST(AutoRestore, KeepsTheTunedWeightsToTheLastBitWhereNothingBeatsThem) {
  for (const bool probed_at_the_end : {true, false}) {
    const TmpDir dir;
    RunConfig config = auto_config(dir);
    if (!probed_at_the_end) config.probe.at = {"start"};
    AutoRun auto_run(dir, config, items_of(config));  // nobody finds those
    auto_run.run.go();
    expect_same_tensors(auto_run.run.state.weights, auto_run.tuned);
    expect_same_tensors(auto_run.run.state.optim, auto_run.tuned_optim);
    const nlohmann::json json = nlohmann::json::parse(read_file(dir / "restore.json"));
    EXPECT_EQ(json.at("method"), "none");
    EXPECT_EQ(json.at("auto").at("beats_none"), false);
    EXPECT_NE(auto_run.out.str().find("auto: no candidate beats none, so the tuned weights stay"), std::string::npos);
    EXPECT_EQ(auto_run.probe.has("restored"), probed_at_the_end);
    EXPECT_EQ(rows_by_stage(dir / "candidates.jsonl").at("none").size(), 6u);
  }
}

TEST(AutoRestore, ALossBoundKeepsWhatCostsTooMuchOut) {
  const TmpDir dir;
  RunConfig config = auto_config(dir);
  config.qk_restore.max_loss_increase = 0;
  config.qk_restore.candidates = {"none", "plain"};
  AutoRun auto_run(dir, config, items_answered_by("plain"));
  auto_run.run.go();
  const nlohmann::json found = nlohmann::json::parse(read_file(dir / "restore.json")).at("auto");
  const nlohmann::json& candidates = found.at("candidates");
  const bool dearer = candidates[1].at("held_out_loss").get<double>() > candidates[0].at("held_out_loss").get<double>();
  EXPECT_EQ(found.at("chosen"), dearer ? "none" : "plain");
  EXPECT_EQ(candidates[1].at("standing"), dearer ? "held-out loss too high" : "chosen");
}

TEST(AutoRestore, LeavesAStoppedRunAlone) {
  const TmpDir dir;
  AutoRun auto_run(dir, auto_config(dir), items_of(auto_config(dir)));
  auto_run.run.add_hook().step = [&](const StepReport& report, TrainState&) { auto_run.run.stop = report.step == 2; };
  EXPECT_EQ(auto_run.run.go(), RunEnd::kStopped);
  expect_same_tensors(auto_run.run.state.weights, auto_run.tuned);
  EXPECT_FALSE(std::filesystem::exists(dir / "restore.json"));
}

TEST(HeldOut, SamplesAreSpreadEvenly) {
  EXPECT_EQ(held_out_samples(10, 2), (std::vector<int64_t>{2, 7}));
  EXPECT_EQ(held_out_samples(10, 5), (std::vector<int64_t>{1, 3, 5, 7, 9}));
  EXPECT_EQ(held_out_samples(4, 3), (std::vector<int64_t>{0, 2, 3}));
  EXPECT_EQ(held_out_samples(3, 1), (std::vector<int64_t>{1}));
  for (int64_t samples = 2; samples < 40; ++samples) {
    for (int64_t count = 1; count < samples; ++count) {
      const std::vector<int64_t> all = held_out_samples(samples, count);
      ASSERT_EQ(static_cast<int64_t>(all.size()), count);
      for (size_t i = 1; i < all.size(); ++i) ASSERT_LT(all[i - 1], all[i]);
      ASSERT_LT(all.back(), samples);
    }
  }
  EXPECT_EQ(QKR_MESSAGE_OF(held_out_samples(24, 24)), "qk_restore.held_out: must leave a row to train on, got 24 of 24 samples");
}

// All labelled tokens weigh the same, however the samples are packed.
TEST(HeldOut, LossIsTheMeanOverLabelledTokens) {
  const Decoder decoder = tiny_decoder("hypenet-tiny", at::kFloat);
  const std::vector<Sample> samples = tiny_samples({20, 33, 9}, 7);
  double sum = 0, labelled = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const Batch one = make_batch(samples, {{i}});
    sum += mean_loss(decoder, {one}) * static_cast<double>(one.labelled);
    labelled += static_cast<double>(one.labelled);
  }
  EXPECT_NEAR(mean_loss(decoder, AutoRun::held_out()), sum / labelled, 1e-5 * sum / labelled);
  EXPECT_FALSE(decoder.weights().begin()->second.grad().defined());
}

}  // namespace
}  // namespace qkr
