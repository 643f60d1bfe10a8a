// Gates: bounds on what the run measures of itself, and what happens where one is broken.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/hooks/gate_judge.h"
#include "trainer/hooks/probe_hook.h"
#include "trainer/loop/hook.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// What the gates of a run have done, for its summary.
struct GateOutcome {
  std::string reason;  // why the run must end with exit code 3, or ""
  nlohmann::ordered_json events = nlohmann::ordered_json::array();  // those in log.jsonl, an earlier process's too
};

// before_run: the measurement that the run begins with, so that a resumed run ends where the first one did; after_step: the loss, and what
// was measured at that step; after_run of a finished run: its last measurement. A broken gate is a row of `folder`/log.jsonl,
// {"step", "event": "gate", "gate", "action", "metric", "stage", "rule", "bound", "limit", "value", "in_a_row", "reason"}, and then
//   warn     a line
//   stop     Requests::stop, and `outcome.reason`
//   fail     Error with exit code 3; at the end of the run `outcome.reason` alone, so that the model is still written
//   restore  the weights go back (restore_every.h), a row of restores.jsonl, stage "step-N-restored"; then the other gates judge that
// Added behind the hooks that measure, and where a gate restores before the checkpoint hook, so that a checkpoint holds what it did.
class GateHook : public Hook {
 public:
  GateHook(const RunConfig& config, const Snapshot& snapshot, RecallProbe& probe, int64_t resumed_step, Requests& requests, GateOutcome& outcome,
           Console& console);
  void before_run(TrainState& state) override;
  void after_step(const StepReport& report, TrainState& state) override;
  void after_run(RunEnd end, TrainState& state) override;

 private:
  void read_log();
  GateJudgement judge(const GateConfigSection& gate) const;
  void judge_losses(int64_t step, bool at_end);
  void restore_where_broken(const std::string& stage, TrainState& state);
  // Warns, stops and fails by the last measurement, which is `stage`.
  void act(const std::string& stage, int64_t step, bool at_end);
  void record(size_t gate, const GateJudgement& judged, const std::string& stage, int64_t step);
  void end_run(size_t gate, const GateJudgement& judged, bool at_end);

  RunConfig config_;
  const Snapshot& snapshot_;
  RecallProbe& probe_;
  std::filesystem::path folder_;
  Requests& requests_;
  GateOutcome& outcome_;
  Console& console_;
  bool end_is_restored_;
  std::vector<double> losses_;  // of all steps
};

// Does any gate put weights back?
bool gates_restore(const std::vector<GateConfigSection>& gates);

}  // namespace qkr
