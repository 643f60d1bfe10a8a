// qk_restore.method: auto. After the last step each candidate is put in the place of the tuned weights, measured, and taken out
// again; the best by the rule of auto_choice.h stays.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/data/batch.h"
#include "trainer/hooks/auto_choice.h"
#include "trainer/hooks/console.h"
#include "trainer/hooks/probe_hook.h"
#include "trainer/loop/hook.h"
#include "trainer/model/decoder.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// `count` of `samples` indices, spread evenly, ascending: the same whatever the seed. Error (bad input) if none would be left
// to train on.
std::vector<int64_t> held_out_samples(int64_t samples, int64_t count);

// The mean loss over the labelled tokens of `batches` together, nats. Nothing is differentiated.
double mean_loss(const Decoder& decoder, const std::vector<Batch>& batches);

// after_run, of a finished run: writes candidates.jsonl (a row a prompt and candidate, as in probe.jsonl), restore.json and, where
// probe.at asks for it, the stage "restored". What stage "end" measured of the tuned weights is not measured again.
class AutoRestoreHook : public Hook {
 public:
  // config, snapshot, decoder and probe outlive the hook. The decoder's weights are those of the run's state.
  AutoRestoreHook(const RunConfig& config, const Snapshot& snapshot, const Decoder& decoder, std::vector<Batch> held_out, RecallProbe& probe,
                  Console& console);
  void after_run(RunEnd end, TrainState& state) override;

 private:
  struct Halves {
    std::vector<NeedleItem> selection, report;
  };
  Trial attempt(const std::string& candidate, TrainState& state);
  std::vector<bool> measure(const std::string& candidate, int64_t step, const std::vector<NeedleItem>& items);
  void compare_with_start(AutoReport& report) const;
  void record_restored(const std::string& chosen);

  const RunConfig& config_;
  const Snapshot& snapshot_;
  const Decoder& decoder_;
  std::vector<Batch> held_out_;
  RecallProbe& probe_;
  Console& console_;
  Halves halves_;
  std::vector<ItemResult> results_;  // of all candidates
};

}  // namespace qkr
