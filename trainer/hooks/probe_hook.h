// Recall, measured between steps on the same frozen prompts: at the start, every so often, at the end, after restoring.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/hooks/head_probe.h"
#include "trainer/io/json_lines.h"
#include "trainer/loop/hook.h"
#include "trainer/model/decoder.h"
#include "trainer/probe/auto_samples.h"
#include "trainer/probe/items.h"
#include "trainer/probe/runner.h"

namespace qkr {

// What the rows say they were made with, beside the weights' digest, which is taken at every measurement.
struct ProbeOrigin {
  std::string tokenizer, dtype;
  std::string settings;  // what else the model's output hangs on (generator.h, weights_digest)
};

// One model, one set of items, one probe.jsonl; the stages of a run share it.
class RecallProbe {
 public:
  // `file` is appended to; "" writes none. Rows of an earlier process that `resumed_step` will not do again stay and
  // count; others are taken back, and used again where the same prompt meets the same weights. With samples auto, `items` are the first of
  // each cell and `pool` has the others. Error (bad input): the file holds rows of another prompt, haystack, tokenizer or setting.
  RecallProbe(const ProbeConfigSection& config, const Decoder& decoder, TextCodec codec, std::vector<NeedleItem> items,
              const std::filesystem::path& file, int64_t resumed_step, Console& console, ProbeOrigin origin = {}, ItemPool pool = {});

  // Measures every item by every reading and prints the stage's rates. Without items it does nothing. With samples auto, the first
  // measurement settles which items there are.
  void measure(const std::string& stage, int64_t step);

  // Measures some of the items by the reading that is scored, with `stage` as their stage: nothing is kept but what is returned,
  // nothing printed but progress.
  std::vector<ItemResult> measure_some(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items) const;
  // Takes in a stage that was measured so, all of its items in their order. The weights must still be those: where there are two readings,
  // the other one is measured now.
  void take(const std::vector<ItemResult>& measured);

  bool has(const std::string& stage) const;  // measured already
  const std::string& broken_stage() const { return broken_stage_; }  // what an earlier process had begun, or owes, or ""
  // An earlier process, killed behind the checkpoint that this one goes on from, should have measured it.
  void owe(const std::string& stage) {
    if (!items_.empty() && broken_stage_.empty() && !has(stage)) broken_stage_ = stage;
  }
  const std::vector<ItemResult>& results() const { return results_; }
  const std::vector<NeedleItem>& items() const { return items_; }

 private:
  class Rows;  // writes, where there is a file
  ProbeOptions options_of(const std::string& stage, int64_t step, const std::string& reading) const;
  std::vector<ItemResult> run(const std::vector<NeedleItem>& items, const ProbeOptions& options, const ProbeProgress& each) const;
  void run_left(const std::vector<NeedleItem>& items, const ProbeOptions& options, Rows& rows, std::vector<ItemResult>& measured) const;
  void announce(const std::string& stage) const;
  void finish_stage(const std::vector<ItemResult>& measured);
  void read_earlier(int64_t resumed_step);
  void settle_items(const std::vector<ItemResult>& first_stage);
  bool is_whole(const std::vector<ItemResult>& stage) const;

  ProbeConfigSection config_;
  const Decoder& decoder_;
  TextCodec codec_;
  std::vector<NeedleItem> items_;
  std::filesystem::path file_;
  Console& console_;
  ProbeOrigin origin_;
  ItemPool pool_;
  bool settled_;  // are items_ those of every stage?
  std::vector<ItemResult> results_;
  std::vector<ItemResult> spare_;  // taken back, of an earlier process
  std::string broken_stage_;
  std::optional<HeadProbe> heads_;  // heads.jsonl beside the file, where the configuration asks for it
};

// before_run: stage "start", or what a killed process had begun or should have begun at this step; after_step: "step-<n>" every probe.every
// steps and where a hook asks for it; after_run: "end".
class ProbeHook : public Hook {
 public:
  // `total_steps`: of the run's plan, whose last step has no measurement but "end".
  ProbeHook(const ProbeConfigSection& config, RecallProbe& probe, int64_t total_steps = 0, const Requests* requests = nullptr)
      : config_(config), probe_(probe), total_steps_(total_steps), requests_(requests) {}
  void before_run(TrainState& state) override;
  void after_step(const StepReport& report, TrainState& state) override;
  void after_run(RunEnd end, TrainState& state) override;

 private:
  ProbeConfigSection config_;
  RecallProbe& probe_;
  int64_t total_steps_;
  const Requests* requests_;
};

// after_run: stage "restored". Added after the restore hook.
class RestoredProbeHook : public Hook {
 public:
  explicit RestoredProbeHook(RecallProbe& probe) : probe_(probe) {}
  void after_run(RunEnd end, TrainState& state) override;

 private:
  RecallProbe& probe_;
};

// Is `stage` in probe.at, and is there anything to measure?
bool probes_at(const ProbeConfigSection& config, const std::string& stage);

}  // namespace qkr
