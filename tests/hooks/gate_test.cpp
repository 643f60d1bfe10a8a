// Gates: when a bound counts as broken, and what each action does to a run of a tiny model whose recall is taken away and comes back.
#include "trainer/hooks/gate.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/loop/support.h"
#include "tests/support/byte_codec.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/hooks/log_hook.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/io/json_lines.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary

ProbeConfigSection probe_section() {
  ProbeConfigSection probe;
  probe.tasks = {"niah_single_1", "niah_single_2"};
  probe.lengths = {1024, 2048};
  return probe;
}

// '1' found, '0' not; one letter a prompt.
void add(std::vector<ItemResult>& rows, const std::string& stage, const std::string& hits, const std::string& task = "niah_single_1",
         int64_t length = 1024, const std::string& reading = "generate") {
  for (size_t i = 0; i < hits.size(); ++i) {
    ItemResult r;
    r.stage = stage;
    r.task = task;
    r.length = length;
    r.index = static_cast<int64_t>(i);
    r.id = concat(task, "/", length, "/", i);
    r.hit = hits[i] == '1';
    r.reading = reading;
    rows.push_back(r);
  }
}

GateConfigSection gate_of(const std::string& metric, std::optional<double> min, std::optional<double> drop = {}) {
  GateConfigSection gate;
  gate.metric = metric;
  gate.min = min;
  gate.max_drop = drop;
  return gate;
}

GateJudgement judge(const GateConfigSection& gate, const std::vector<ItemResult>& rows) {
  return judge_recall(gate, probe_section(), rows, stages_for(gate, rows, false));
}

TEST(Judge, MinByPointAndByLowerLimit) {
  std::vector<ItemResult> rows;
  add(rows, "start", "1111111110");  // 90 %, [59.6, 98.2]
  EXPECT_FALSE(judge(gate_of("probe", 90), rows).broken);
  const GateJudgement broken = judge(gate_of("probe", 90.5), rows);
  EXPECT_TRUE(broken.broken);
  EXPECT_EQ(broken.in_a_row, 1);
  EXPECT_EQ(broken.text, "recall of probe is 90.0% [59.6, 98.2] of 10 prompts at start, below min 90.5");
  GateConfigSection sure = gate_of("probe", 59.5);
  sure.rule = "lower";
  EXPECT_FALSE(judge(sure, rows).broken);
  sure.min = 59.7;
  EXPECT_EQ(judge(sure, rows).text, "recall of probe is 90.0% [59.6, 98.2] of 10 prompts at start, its lower limit below min 59.7");
}

TEST(Judge, ACellATaskOrAll) {
  std::vector<ItemResult> rows;
  add(rows, "start", "1111", "niah_single_1", 1024);
  add(rows, "start", "0000", "niah_single_1", 2048);
  add(rows, "start", "0000", "niah_single_2", 1024);
  EXPECT_FALSE(judge(gate_of("probe/niah_single_1/1024", 100), rows).broken);
  EXPECT_TRUE(judge(gate_of("probe/niah_single_1/2048", 1), rows).broken);
  EXPECT_FALSE(judge(gate_of("probe/niah_single_1", 50), rows).broken);
  EXPECT_TRUE(judge(gate_of("probe/niah_single_1", 51), rows).broken);
  EXPECT_FALSE(judge(gate_of("probe", 33), rows).broken);
  EXPECT_TRUE(judge(gate_of("probe", 34), rows).broken);
  EXPECT_FALSE(judge(gate_of("probe/niah_single_2/2048", 100), rows).broken) << "nothing was measured there";
}

// The other reading's rows are not recall as it is scored.
TEST(Judge, OneReadingCounts) {
  std::vector<ItemResult> rows;
  add(rows, "start", "1111");
  add(rows, "start", "0000", "niah_single_1", 1024, "teacher_forced");
  ProbeConfigSection both = probe_section();
  both.reading = "both";
  const GateConfigSection gate = gate_of("probe", 100);
  EXPECT_FALSE(judge_recall(gate, both, rows, {"start"}).broken);
  both.reading = "teacher_forced";
  EXPECT_TRUE(judge_recall(gate, both, rows, {"start"}).broken);
}

TEST(Judge, DropIsPairedWithTheStart) {
  std::vector<ItemResult> rows;
  add(rows, "start", "11111111111111111111111111111111111000000000000000");    // 35 of 50
  add(rows, "step-4", "11111111111111111111111110000000000110000000000000");   // 25 both, 10 lost, 2 gained: -16 points [-29, -2]
  EXPECT_TRUE(judge(gate_of("probe", {}, 15.9), rows).broken);
  EXPECT_FALSE(judge(gate_of("probe", {}, 16.1), rows).broken);
  GateConfigSection sure = gate_of("probe", {}, 28);
  sure.rule = "lower";
  const GateJudgement judged = judge(sure, rows);
  EXPECT_TRUE(judged.broken) << "the drop may be as large as 29";
  EXPECT_EQ(judged.bound, "max_drop");
  EXPECT_EQ(judged.text, "recall of probe has changed by -16.0 points [-28.6, -2.5] since the start, 50 prompts at step-4, its lower limit a drop of more than max_drop 28");
  sure.max_drop = 30;
  EXPECT_FALSE(judge(sure, rows).broken);
  EXPECT_FALSE(judge(gate_of("probe", {}, 0), {rows.begin(), rows.begin() + 50}).broken) << "the start has not dropped";
}

TEST(Judge, InARowStartsAnewWhereTheBoundIsKept) {
  std::vector<ItemResult> rows;
  GateConfigSection gate = gate_of("probe", 50);
  gate.in_a_row = 2;
  const auto after = [&](const std::string& stage, const std::string& hits) {
    add(rows, stage, hits);
    const GateJudgement judged = judge(gate, rows);
    return std::make_pair(judged.in_a_row, judged.acts(gate));
  };
  EXPECT_EQ(after("start", "1111"), std::make_pair(int64_t{0}, false));
  EXPECT_EQ(after("step-2", "0001"), std::make_pair(int64_t{1}, false));
  EXPECT_EQ(after("step-4", "0011"), std::make_pair(int64_t{0}, false));
  EXPECT_EQ(after("step-6", "0000"), std::make_pair(int64_t{1}, false));
  EXPECT_EQ(after("step-8", "0001"), std::make_pair(int64_t{2}, true));
  EXPECT_NE(judge(gate, rows).text.find(", 2 measurements in a row"), std::string::npos);
}

TEST(Judge, StagesThatCount) {
  std::vector<ItemResult> rows;
  for (const char* stage : {"start", "step-2", "step-4", "step-4-restored", "step-6", "end", "restored"}) add(rows, stage, "1");
  GateConfigSection gate = gate_of("probe", 50);
  using Stages = std::vector<std::string>;
  EXPECT_EQ(stages_for(gate, rows, true), (Stages{"start", "step-2", "step-4-restored", "step-6", "restored"}));
  EXPECT_EQ(stages_for(gate, rows, false), (Stages{"start", "step-2", "step-4-restored", "step-6", "end", "restored"}));
  gate.action = "restore";
  EXPECT_EQ(stages_for(gate, rows, true), (Stages{"step-6"}));
}

TEST(Judge, LossOfTheLastSteps) {
  GateConfigSection gate = gate_of("loss", {});
  gate.max = 2;
  EXPECT_EQ(judge_loss(gate, {1, 2, 2.5, 3}, 4).in_a_row, 2);
  EXPECT_EQ(judge_loss(gate, {1, 2, 2.5, 3}, 4).text, "loss is 3.0000 at step 4, above max 2, 2 steps in a row");
  EXPECT_FALSE(judge_loss(gate, {3, 2}, 2).broken);
  EXPECT_FALSE(judge_loss(gate, {}, 0).broken);
}

void scatter(const NamedTensors& weights) {
  at::manual_seed(50);
  for (const auto& [name, weight] : weights) {
    const bool softmax = name.find("layers.1.") != std::string::npos || name.find("layers.3.") != std::string::npos;
    const bool routing = name.find("q_proj") != std::string::npos || name.find("k_proj") != std::string::npos;
    if (softmax && routing) at::Tensor(weight).detach().copy_(at::randn(weight.sizes()));
  }
}

RunConfig gated_config(const TmpDir& dir, const std::vector<GateConfigSection>& gates) {
  RunConfig config = busy_config();
  config.optim.lr = 0;  // what the test does not scatter stays as it is
  config.optim.weight_decay = 0;
  config.train.max_steps = 6;
  config.output = dir.path().string();
  config.probe.tasks = {"niah_single_1"};
  config.probe.lengths = {1024};
  config.probe.samples = 3;
  config.probe.every = 2;
  config.probe.max_new_tokens = 24;
  config.qk_restore.method = "plain";
  config.log.tensorboard = false;
  config.gate = gates;
  return config;
}

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};

// All prompts are found with the first weights; step `lost_at` scatters W_Q and W_K.
struct GatedRun {
  GatedRun(const TmpDir& dir, const RunConfig& run_config, int64_t lost_at, int64_t resumed_step = 0)
      : config(run_config),
        console(out, "off"),
        run(config, tiny_decoder("hypenet-tiny", at::kFloat), tiny_samples(kLengths), row_each(tiny_samples(kLengths))),
        snapshot(take_snapshot(run.decoder.weights(), layers_to_keep(mixer_layers(run.decoder.architecture()), config.qk_restore))),
        probe(config.probe, run.decoder, letter_codec(), answered(), dir / "probe.jsonl", resumed_step, console) {
    run.state.step = resumed_step;
    run.hooks.push_back(std::make_unique<LogHook>(config.log, dir.path(), resumed_step, console));
    run.add_hook().step = [lost_at](const StepReport& report, TrainState& state) {
      if (report.step == lost_at) scatter(state.weights);
    };
    run.hooks.push_back(std::make_unique<ProbeHook>(config.probe, probe));
    run.hooks.push_back(std::make_unique<GateHook>(config, snapshot, probe, resumed_step, run.requests, outcome, console));
    CheckpointConfigSection never;
    run.hooks.push_back(std::make_unique<CheckpointHook>(never, dir / "checkpoints", Identity{}, console));
  }

  std::vector<NeedleItem> answered() {
    std::vector<NeedleItem> items = draw_items(config.probe, nullptr, letter_codec());
    RecallProbe first(config.probe, run.decoder, letter_codec(), items, "", 0, console);
    const std::vector<ItemResult> said = first.measure_some("made", 0, items);
    for (size_t i = 0; i < items.size(); ++i) items[i].value = said[i].prediction;
    return items;
  }

  RunConfig config;
  std::ostringstream out;
  Console console;
  TinyRun run;
  Snapshot snapshot;
  RecallProbe probe;
  GateOutcome outcome;
};

GateConfigSection acting(const std::string& action, int64_t in_a_row = 1) {
  GateConfigSection gate = gate_of("probe", {}, 50);
  gate.action = action;
  gate.in_a_row = in_a_row;
  return gate;
}

std::vector<nlohmann::json> gate_rows(const TmpDir& dir) {
  std::vector<nlohmann::json> rows;
  JsonLinesReader reader(dir / "log.jsonl");
  while (reader.next()) {
    if (reader.row().value("event", "") == "gate") rows.push_back(reader.row());
  }
  return rows;
}

TEST(GateHook, WarnsAndGoesOn) {
  const TmpDir dir;
  GatedRun gated(dir, gated_config(dir, {acting("warn")}), 4);
  EXPECT_EQ(gated.run.go(), RunEnd::kFinished);
  const std::vector<nlohmann::json> rows = gate_rows(dir);
  ASSERT_EQ(rows.size(), 1u) << gated.out.str();  // at step 4; the end is restored afterwards
  EXPECT_EQ(rows[0]["step"], 4);
  EXPECT_EQ(rows[0]["stage"], "step-4");
  EXPECT_EQ(rows[0]["action"], "warn");
  EXPECT_EQ(rows[0]["bound"], "max_drop");
  EXPECT_EQ(rows[0]["limit"], 50);
  EXPECT_EQ(rows[0]["value"], 100);
  EXPECT_EQ(gated.outcome.reason, "");
  EXPECT_EQ(gated.outcome.events.size(), 1u);
  EXPECT_NE(gated.out.str().find("gate[0], warn: recall of probe has changed by -100.0 points"), std::string::npos) << gated.out.str();
}

TEST(GateHook, StopsAndSavesAndStopsAgainWhereItIsResumed) {
  const TmpDir dir;
  const RunConfig config = gated_config(dir, {acting("stop")});
  {
    GatedRun gated(dir, config, 2);
    EXPECT_EQ(gated.run.go(), RunEnd::kStopped);
    EXPECT_EQ(gated.run.state.step, 2);
    EXPECT_EQ(gated.outcome.reason.rfind("gate[0]: recall of probe has changed by -100.0 points", 0), 0u) << gated.outcome.reason;
    EXPECT_TRUE(std::filesystem::exists(dir / "checkpoints" / "step-000002" / "progress.json"));
  }
  GatedRun again(dir, config, 0, 2);
  EXPECT_EQ(again.run.go(), RunEnd::kStopped);
  EXPECT_EQ(again.run.state.step, 2);
  EXPECT_NE(again.outcome.reason, "");
  EXPECT_EQ(gate_rows(dir).size(), 1u) << "the same event is not written twice";
}

TEST(GateHook, FailsAtOnceWithExitCode3) {
  const TmpDir dir;
  GatedRun gated(dir, gated_config(dir, {acting("fail")}), 2);
  try {
    gated.run.go();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kGateFailed);
    EXPECT_EQ(std::string(error.what()).rfind("gate[0]: recall of probe has changed by", 0), 0u) << error.what();
  }
  EXPECT_EQ(gate_rows(dir).size(), 1u);
  EXPECT_FALSE(std::filesystem::exists(dir / "checkpoints"));
}

// At the end the model is written first: the outcome says that the run must not pass.
TEST(GateHook, FailsAtTheEndAfterAllIsWritten) {
  const TmpDir dir;
  RunConfig config = gated_config(dir, {acting("fail")});
  config.qk_restore.method = "none";
  config.probe.every = 0;
  GatedRun gated(dir, config, 5);
  EXPECT_EQ(gated.run.go(), RunEnd::kFinished);
  EXPECT_NE(gated.outcome.reason.find("at end"), std::string::npos) << gated.outcome.reason;
}

TEST(GateHook, RestoresMeasuresAgainAndTheOtherGatesJudgeThat) {
  const TmpDir dir;
  GatedRun gated(dir, gated_config(dir, {acting("fail"), acting("restore")}), 2);
  EXPECT_EQ(gated.run.go(), RunEnd::kFinished) << "the fail gate sees the repaired model alone";
  ASSERT_TRUE(gated.probe.has("step-2-restored"));
  EXPECT_FALSE(gated.probe.has("step-4-restored"));
  const auto recall = [&](const std::string& stage) {
    int64_t found = 0;
    for (const ItemResult& r : gated.probe.results()) found += r.stage == stage && r.hit ? 1 : 0;
    return found;
  };
  EXPECT_EQ(recall("start"), 3);
  EXPECT_EQ(recall("step-2"), 0);
  EXPECT_EQ(recall("step-2-restored"), 3);
  EXPECT_EQ(recall("step-4"), 3);
  JsonLinesReader restores(dir / "restores.jsonl");
  ASSERT_TRUE(restores.next());
  EXPECT_EQ(restores.row()["step"], 2);
  EXPECT_EQ(restores.row()["reason"].get<std::string>().rfind("gate[1]: recall", 0), 0u);
  ASSERT_EQ(gate_rows(dir).size(), 1u);
  EXPECT_EQ(gate_rows(dir)[0]["action"], "restore");
  EXPECT_EQ(gated.outcome.reason, "");
}

TEST(GateHook, CountsMeasurementsInARowAcrossAResume) {
  const TmpDir dir;
  RunConfig config = gated_config(dir, {acting("stop", 2)});
  {
    GatedRun gated(dir, config, 2);
    gated.run.add_hook().step = [&](const StepReport& report, TrainState&) { gated.run.stop = report.step == 3; };
    EXPECT_EQ(gated.run.go(), RunEnd::kStopped);
    EXPECT_EQ(gated.outcome.reason, "");
  }
  GatedRun resumed(dir, config, 0, 3);
  scatter(resumed.run.state.weights);  // as in its checkpoint
  EXPECT_EQ(resumed.run.go(), RunEnd::kStopped);
  EXPECT_EQ(resumed.run.state.step, 4);
  EXPECT_NE(resumed.outcome.reason.find("2 measurements in a row"), std::string::npos);
}

TEST(GateHook, LossOfASpikeStops) {
  const TmpDir dir;
  GateConfigSection gate = gate_of("loss", {});
  gate.max = 1e-3;
  gate.in_a_row = 3;
  gate.action = "stop";
  RunConfig config = gated_config(dir, {gate});
  config.probe.at = {};
  config.probe.every = 0;
  GatedRun gated(dir, config, 0);
  EXPECT_EQ(gated.run.go(), RunEnd::kStopped);
  EXPECT_EQ(gated.run.state.step, 3);
  EXPECT_NE(gated.outcome.reason.find("above max 0.001, 3 steps in a row"), std::string::npos) << gated.outcome.reason;
  GatedRun resumed(dir, config, 0, 3);
  EXPECT_EQ(resumed.run.go(), RunEnd::kStopped);
  EXPECT_EQ(resumed.run.state.step, 3) << "judged before the first step";
}

}  // namespace
}  // namespace qkr
