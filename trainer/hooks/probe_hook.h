// Recall, measured between steps on the same frozen prompts: at the start, every so often, at the end, after restoring.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/loop/hook.h"
#include "trainer/model/decoder.h"
#include "trainer/probe/items.h"
#include "trainer/probe/runner.h"

namespace qkr {

// One model, one set of items, one probe.jsonl; the stages of a run share it.
class RecallProbe {
 public:
  // `file` is appended to; "" writes none. Rows of an earlier process that `resumed_step` will not do again stay and
  // count; a stage that it did not get through is taken back.
  RecallProbe(const ProbeConfigSection& config, const Decoder& decoder, TextCodec codec, std::vector<NeedleItem> items,
              const std::filesystem::path& file, int64_t resumed_step, Console& console);

  // Measures every item and prints the stage's rates. Without items it does nothing.
  void measure(const std::string& stage, int64_t step);

  // Measures some of the items, with `stage` as their stage: nothing is kept but what is returned, nothing printed but progress.
  std::vector<ItemResult> measure_some(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items) const;
  // Takes in a stage that was measured so, all of its items in their order.
  void take(const std::vector<ItemResult>& measured);

  bool has(const std::string& stage) const;  // measured already
  const std::string& broken_stage() const { return broken_stage_; }  // what an earlier process had begun, or ""
  const std::vector<ItemResult>& results() const { return results_; }
  const std::vector<NeedleItem>& items() const { return items_; }

 private:
  std::vector<ItemResult> run(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items, const ProbeProgress& each) const;
  void print_rates(const std::vector<ItemResult>& measured);
  void read_earlier(int64_t resumed_step);

  ProbeConfigSection config_;
  const Decoder& decoder_;
  TextCodec codec_;
  std::vector<NeedleItem> items_;
  std::filesystem::path file_;
  Console& console_;
  std::vector<ItemResult> results_;
  std::string broken_stage_;
};

// before_run: stage "start", or what a killed process had begun at this step; after_step: "step-<n>" every probe.every
// steps; after_run: "end".
class ProbeHook : public Hook {
 public:
  ProbeHook(const ProbeConfigSection& config, RecallProbe& probe) : config_(config), probe_(probe) {}
  void before_run(TrainState& state) override;
  void after_step(const StepReport& report, TrainState& state) override;
  void after_run(RunEnd end, TrainState& state) override;

 private:
  ProbeConfigSection config_;
  RecallProbe& probe_;
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
