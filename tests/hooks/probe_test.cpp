// Recall measured within a run of a tiny model: stages, rows, and what a resume keeps of them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "tests/loop/support.h"
#include "tests/support/byte_codec.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/probe_hook.h"
#include "trainer/io/json_lines.h"
#include "trainer/model/generate.h"
#include "trainer/probe/record.h"

namespace qkr {
namespace {

using test::busy_config;
using test::byte_codec;
using test::row_each;
using test::tiny_decoder;
using test::tiny_samples;
using test::TinyRun;
using test::TmpDir;

const std::vector<int64_t> kLengths = {31, 7, 40, 12, 25};

ProbeConfigSection probe_config() {
  ProbeConfigSection config;
  config.tasks = {"niah_single_1"};
  config.lengths = {1024};
  config.samples = 3;
  config.every = 2;
  config.max_new_tokens = 6;
  config.prefill_chunk = 300;
  return config;
}

struct Probed {
  explicit Probed(const TmpDir& dir, int64_t steps = 4, int64_t resumed_step = 0,
                  const ProbeConfigSection& probe_section = probe_config())
      : section(probe_section),
        console(out, "off"),
        run(config_of(steps), tiny_decoder("hypenet-tiny", at::kFloat), tiny_samples(kLengths),
            row_each(tiny_samples(kLengths))),
        items(draw_items(section, nullptr, byte_codec())),
        probe(section, run.decoder, byte_codec(), items, dir / "probe.jsonl", resumed_step, console) {
    run.hooks.push_back(std::make_unique<ProbeHook>(section, probe));
    run.state.step = resumed_step;
  }

  static RunConfig config_of(int64_t steps) {
    RunConfig config = busy_config();
    config.train.max_steps = steps;
    return config;
  }

  ProbeConfigSection section;
  std::ostringstream out;
  Console console;
  TinyRun run;
  std::vector<NeedleItem> items;
  RecallProbe probe;
};

std::vector<std::string> stages_in(const std::filesystem::path& file) {
  std::vector<std::string> stages;
  JsonLinesReader reader(file);
  while (reader.next()) stages.push_back(reader.row().at("stage"));
  return stages;
}

std::vector<std::string> thrice(const std::vector<std::string>& stages) {
  std::vector<std::string> all;
  for (const std::string& stage : stages) all.insert(all.end(), 3, stage);
  return all;
}

TEST(ProbeHook, MeasuresAtItsStages) {
  const TmpDir dir;
  Probed p(dir, 5);
  p.run.hooks.push_back(std::make_unique<RestoredProbeHook>(p.probe));
  p.run.go();
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2", "step-4", "end", "restored"}));
  ASSERT_EQ(p.probe.results().size(), 15u);
  JsonLinesReader reader(dir / "probe.jsonl");
  const std::vector<int64_t> steps = {0, 2, 4, 5, 5};
  for (size_t i = 0; reader.next(); ++i) {
    EXPECT_EQ(reader.text(), to_json(p.probe.results()[i]).dump()) << i;
    EXPECT_EQ(p.probe.results()[i].step, steps[i / 3]) << i;
    EXPECT_EQ(p.probe.results()[i].id, p.items[i % 3].id) << i;  // the same prompts at every stage: paired
  }
  for (const char* stage : {"start", "step-2", "step-4", "end", "restored"}) {
    EXPECT_TRUE(p.probe.has(stage));
    EXPECT_NE(p.out.str().find(std::string("probe ") + stage + ": 3 prompts, greedy, at most 6 new tokens"),
              std::string::npos)
        << p.out.str();
  }
  EXPECT_FALSE(p.probe.has("step-3"));
  EXPECT_NE(p.out.str().find("  niah_single_1  1024  n=3  "), std::string::npos) << p.out.str();
}

TEST(ProbeHook, PredictionsAreTheModelsGreedyTextAtThatMoment) {
  const TmpDir dir;
  Probed p(dir, 4);
  std::vector<std::string> before, after;
  const auto greedy = [&] {
    std::vector<std::string> texts;
    for (const NeedleItem& item : p.items) {
      GreedyOptions options;
      options.max_new_tokens = 6;
      options.stop_ids = p.run.decoder.architecture().eos_ids;
      texts.push_back(byte_codec().decode(generate_greedy(p.run.decoder, item.ids, options)));
    }
    return texts;
  };
  p.run.add_hook().before = [&](TrainState&) { before = greedy(); };
  p.run.go();
  after = greedy();
  const auto& results = p.probe.results();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(results[i].prediction, before[i]);
    EXPECT_EQ(results[results.size() - 3 + i].prediction, after[i]);
    EXPECT_EQ(results[i].prompt_tokens, static_cast<int64_t>(p.items[i].ids.size()));
    EXPECT_LE(results[i].prompt_tokens + 6, 1024);
  }
  EXPECT_NE(before, after) << "four steps at this rate change what the model says";
}

TEST(ProbeHook, HitsAreCountedWhereTheModelFindsTheValue) {
  const TmpDir dir;
  Probed p(dir);
  std::vector<NeedleItem> found = p.items;  // outputs that any prediction holds, and one that none does
  p.probe.measure("start", 0);
  for (size_t i = 0; i < 3; ++i)
    found[i].value = i < 2 ? p.probe.results()[i].prediction.substr(0, 2) : "no such value";
  ASSERT_FALSE(found[0].value.empty());
  RecallProbe again(p.section, p.run.decoder, byte_codec(), found, "", 0, p.console);
  again.measure("start", 0);
  EXPECT_TRUE(again.results()[0].hit && again.results()[1].hit);
  EXPECT_FALSE(again.results()[2].hit);
  EXPECT_NE(p.out.str().find("66.7%"), std::string::npos) << p.out.str();
  EXPECT_EQ(again.results().size(), 3u);
}

TEST(ProbeHook, AResumeKeepsWhatItWillNotDoAgain) {
  const TmpDir dir;
  {
    Probed(dir, 6).run.go();
  }
  ASSERT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2", "step-4", "end"}));
  {
    Probed resumed(dir, 6, 3);  // from a checkpoint at step 3
    EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2"}));
    EXPECT_TRUE(resumed.probe.has("start") && resumed.probe.has("step-2"));
    EXPECT_FALSE(resumed.probe.has("step-4") || resumed.probe.has("end"));
    EXPECT_EQ(resumed.probe.results().size(), 6u);
    resumed.run.go();
    EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2", "step-4", "end"}));
    EXPECT_EQ(resumed.probe.results().size(), 12u);
  }
  Probed finished(dir, 6, 6);  // from the last step: the end alone is measured anew
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2", "step-4"}));
  Probed anew(dir, 6, 0);
  EXPECT_TRUE(stages_in(dir / "probe.jsonl").empty());
  EXPECT_TRUE(anew.probe.results().empty());
}

TEST(ProbeHook, AStageThatWasNotFinishedIsMeasuredWhole) {
  const TmpDir dir;
  {
    Probed(dir, 6).run.go();
  }
  int64_t kept = 0;
  keep_lines_while(dir / "probe.jsonl", [&](const nlohmann::json&) { return kept++ < 7; });  // killed within "step-4"
  ASSERT_EQ(stages_in(dir / "probe.jsonl").back(), "step-4");
  Probed resumed(dir, 6, 4);  // its checkpoint was written before the probe
  EXPECT_EQ(resumed.probe.broken_stage(), "step-4");
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2"}));
  resumed.run.go();
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2", "step-4", "end"}));
}

// Rows of before a kill count again where the same prompt meets the same weights, and only there.
TEST(ProbeHook, WhatTheSameWeightsSaidIsNotAskedAgain) {
  const TmpDir dir;
  std::vector<nlohmann::json> first;
  {
    Probed p(dir, 6);
    p.probe.measure("start", 0);
    EXPECT_EQ(p.probe.results()[0].model.size(), 16u);
  }
  {
    JsonLinesReader reader(dir / "probe.jsonl");
    while (reader.next()) first.push_back(reader.row());
  }
  first[1]["prediction"] = "of an earlier process";
  first[2]["model"] = "0123456789abcdef";
  first[2]["prediction"] = "of another model";
  std::filesystem::remove(dir / "probe.jsonl");
  {
    JsonLinesWriter rows(dir / "probe.jsonl");
    for (const nlohmann::json& row : first) rows.write_row(row);
  }
  Probed p(dir, 6);
  p.probe.measure("start", 0);
  ASSERT_EQ(p.probe.results().size(), 3u);
  EXPECT_EQ(p.probe.results()[1].prediction, "of an earlier process");
  for (const ItemResult& r : p.probe.results()) EXPECT_NE(r.prediction, "of another model");
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start"}));
}

TEST(ProbeHook, RowsOfOtherPromptsAreRefusedAndLeftAlone) {
  const TmpDir dir;
  {
    Probed(dir, 6).probe.measure("start", 0);
  }
  const std::string before = test::read_file(dir / "probe.jsonl");
  ProbeConfigSection other = probe_config();
  other.seed = 7;
  EXPECT_NE(QKR_MESSAGE_OF(Probed(dir, 6, 2, other)).find("probe.jsonl: niah_single_1/1024/0: prompt must be this probe's, niah_single_1/1024/0#"), std::string::npos);
  other = probe_config();
  other.max_new_tokens = 5;
  EXPECT_NE(QKR_MESSAGE_OF(Probed(dir, 6, 2, other)).find("max_new_tokens must be this probe's, 5, got 6"), std::string::npos);
  Probed p(dir, 6, 2);
  const auto as = [&](const ProbeOrigin& origin) {
    return QKR_MESSAGE_OF(RecallProbe(p.section, p.run.decoder, byte_codec(), p.items, dir / "tokenizer.jsonl", 2, p.console, origin));
  };
  std::string text = before;
  const std::string empty = "\"tokenizer\":\"\"";
  for (size_t at = text.find(empty); at != std::string::npos; at = text.find(empty)) text.replace(at, empty.size(), "\"tokenizer\":\"abc\"");
  dir.write("tokenizer.jsonl", text);
  EXPECT_NE(as({"def", "", ""}).find("tokenizer must be this probe's, def, got abc"), std::string::npos);
  EXPECT_EQ(as({"abc", "", ""}), "");
  EXPECT_EQ(test::read_file(dir / "tokenizer.jsonl"), text);
}

TEST(ProbeHook, BothReadingsAreRowsOfTheirOwn) {
  const TmpDir dir;
  ProbeConfigSection config = probe_config();
  config.reading = "both";
  Probed p(dir, 4, 0, config);
  p.run.go();
  ASSERT_EQ(p.probe.results().size(), 18u);  // 3 stages
  for (size_t i = 0; i < 18; ++i) EXPECT_EQ(p.probe.results()[i].reading, i % 6 < 3 ? "generate" : "teacher_forced") << i;
  EXPECT_NE(p.out.str().find("probe start: 3 prompts, greedy, at most 6 new tokens and teacher-forced"), std::string::npos) << p.out.str();
  EXPECT_NE(p.out.str().find("how the two readings agree"), std::string::npos);
  EXPECT_EQ(p.probe.measure_some("some", 4, p.items).size(), 3u);
  // What was measured by the one reading is taken in, the other is measured with it.
  const std::vector<ItemResult> some = p.probe.measure_some("restored", 4, p.items);
  p.probe.take(some);
  EXPECT_EQ(p.probe.results().size(), 24u);
  EXPECT_EQ(p.probe.results().back().stage, "restored");
  EXPECT_EQ(p.probe.results().back().reading, "teacher_forced");
}

ItemPool pool_of(const ProbeConfigSection& config) {
  return ItemPool([config](const std::string& task, int64_t length, int64_t first, int64_t count) {
    std::vector<NeedleItem> items;
    for (int64_t i = first; i < first + count; ++i) items.push_back(draw_item(config, parse_needle_task(task), length, i, nullptr, byte_codec(), 0));
    return items;
  });
}

// Nobody finds anything: [0, 27.8] at 10 prompts, [0, 16.1] at 20.
TEST(ProbeHook, SamplesAutoSettleAtTheFirstMeasurement) {
  const TmpDir dir;
  ProbeConfigSection config = probe_config();
  config.samples = 0;
  config.width = 20;
  ProbeConfigSection batch = config;
  batch.samples = kSampleBatch;
  Probed p(dir, 4);  // its model
  const auto measured = [&](int64_t resumed_step) {
    return std::make_unique<RecallProbe>(config, p.run.decoder, byte_codec(), draw_items(batch, nullptr, byte_codec()), dir / "auto.jsonl", resumed_step,
                                         p.console, ProbeOrigin{}, pool_of(config));
  };
  {
    auto probe = measured(0);
    probe->measure("start", 0);
    EXPECT_EQ(probe->items().size(), 20u);
    EXPECT_EQ(probe->items()[19].index, 19);
    probe->measure("step-2", 2);
    EXPECT_EQ(probe->results().size(), 40u);
  }
  EXPECT_NE(p.out.str().find("probe start: batches of 10 prompts a cell until its interval is at most 20.0 points wide, 500 at most, greedy"), std::string::npos)
      << p.out.str();
  EXPECT_NE(p.out.str().find("probe step-2: 20 prompts, greedy"), std::string::npos);
  auto resumed = measured(2);
  EXPECT_EQ(resumed->items().size(), 20u);
  EXPECT_TRUE(resumed->has("start") && resumed->has("step-2"));
  int64_t kept = 0;
  keep_lines_while(dir / "auto.jsonl", [&](const nlohmann::json&) { return kept++ < 13; });  // killed within the second batch of "start"
  auto again = measured(0);
  again->measure("start", 0);
  EXPECT_EQ(again->items().size(), 20u);
  EXPECT_EQ(again->results().size(), 20u);
}

TEST(ProbeHook, MeasuresNothingThatWasNotAskedFor) {
  const TmpDir dir;
  ProbeConfigSection config = probe_config();
  config.at = {};
  config.every = 0;
  Probed p(dir, 4, 0, config);
  p.run.go();
  EXPECT_TRUE(p.probe.results().empty());
  EXPECT_FALSE(std::filesystem::exists(dir / "probe.jsonl"));
  EXPECT_TRUE(probes_at(probe_config(), "restored"));
  EXPECT_FALSE(probes_at(config, "restored"));
  config = probe_config();
  config.lengths = {};
  EXPECT_FALSE(probes_at(config, "start"));
}

TEST(ProbeHook, AStoppedRunIsNotAtItsEnd) {
  const TmpDir dir;
  Probed p(dir, 6);
  p.run.add_hook().step = [&](const StepReport& report, TrainState&) { p.run.stop = report.step == 3; };
  p.run.hooks.push_back(std::make_unique<RestoredProbeHook>(p.probe));
  EXPECT_EQ(p.run.go(), RunEnd::kStopped);
  EXPECT_EQ(stages_in(dir / "probe.jsonl"), thrice({"start", "step-2"}));
}

}  // namespace
}  // namespace qkr
