// `hooks:` of a configuration: TorchScript modules called between steps. What they measure goes into log.jsonl and
// TensorBoard as hook/NAME/METRIC; what they ask for is set in Requests and carried out after the same step; their
// state is in every checkpoint.
//
//   on_start   before the first step of a run, not when it is resumed
//   on_step    after every `every`-th step, before its log row, restore, checkpoint and probe. metrics: the numbers of
//              the step's log row and total_steps
//   on_probe   after a measurement of recall. metrics: "probe" (all prompts) and "probe/TASK/LENGTH", percent. It may
//              not write; `stop` acts at once, another request after the next step
//   on_end     after the last step of a run that finished, before the end's probe, restore and export. Its requests
//              have no effect
#pragma once

#include <string>
#include <vector>

#include "trainer/hooks/console.h"
#include "trainer/hooks/hook_states.h"
#include "trainer/hooks/log_hook.h"
#include "trainer/hooks/probe_hook.h"
#include "trainer/hooks/script.h"
#include "trainer/loop/hook.h"

namespace qkr {

class ScriptHooks : public Hook {
 public:
  // `can_restore`: is there a method that acts during a run? A request that nothing can carry out is an error in the
  // script.
  ScriptHooks(std::vector<Script> scripts, bool can_restore, LogHook& log, RecallProbe& probe, Requests& requests,
              Console& console);

  void before_run(TrainState& state) override;
  void after_step(const StepReport& report, TrainState& state) override;
  void after_run(RunEnd end, TrainState& state) override;

  // Measures where a request asks for it, and tells on_probe every stage that it has not been told. `log`: what it
  // measures is logged.
  void look_at_probe(int64_t step, bool log);

  // Text "asked": what on_probe has seen and asked for, and who is off. A file NAME.pt for each of the others.
  std::string name() const override { return scripts_.empty() ? "" : kScriptsName; }
  HookState state() const override;
  void set_state(const HookState& state) override;

 private:
  // `event` tells the log row: "" for the step's own.
  void call_all(ScriptEvent event, const ScriptInputs& inputs, const std::string& event_name, TrainState* state);
  void take_requests(const Script& script, ScriptEvent event, const std::vector<std::string>& asked);
  std::vector<Script> scripts_;
  std::vector<bool> off_;
  bool can_restore_;
  LogHook& log_;
  RecallProbe& probe_;
  Requests& requests_;
  Console& console_;
  const NamedTensors* weights_ = nullptr;  // of the run, from before_run on
  const NamedTensors* optim_ = nullptr;
  Requests pending_;         // asked for by on_probe, for the next step
  int64_t probes_seen_ = 0;  // stages told to on_probe
};

// Right after the hooks that measure recall, before those that judge it: where on_probe is called.
class ScriptProbeHook : public Hook {
 public:
  explicit ScriptProbeHook(ScriptHooks& scripts) : scripts_(scripts) {}
  // A checkpoint is saved before its step's probe: what that found, the scripts are told again, and its log rows are
  // there already.
  void before_run(TrainState& state) override { scripts_.look_at_probe(state.step, state.step == 0); }
  void after_step(const StepReport& report, TrainState&) override { scripts_.look_at_probe(report.step, true); }
  void after_run(RunEnd, TrainState& state) override { scripts_.look_at_probe(state.step, true); }

 private:
  ScriptHooks& scripts_;
};

// "hook     ema every 1: on_step on_end; reads weights; writes 2 of 55 weights; on_error fail; 60 s a call": a line
// each.
std::string describe_scripts(const std::vector<Script>& scripts, const std::vector<std::string>& weight_names);

}  // namespace qkr
