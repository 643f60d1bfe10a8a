#include "trainer/hooks/gate.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/hooks/restore_every.h"
#include "trainer/hooks/resumed_rows.h"
#include "trainer/io/json_lines.h"

namespace qkr {
namespace {

bool is_loss(const GateConfigSection& gate) { return gate.metric == "loss"; }

std::string name_of(size_t gate) { return concat("gate[", gate, "]"); }

}  // namespace

bool gates_restore(const std::vector<GateConfigSection>& gates) {
  return std::any_of(gates.begin(), gates.end(), [](const GateConfigSection& gate) { return gate.action == "restore"; });
}

GateHook::GateHook(const RunConfig& config, const Snapshot& snapshot, RecallProbe& probe, int64_t resumed_step, Requests& requests,
                   GateOutcome& outcome, Console& console)
    : config_(config), snapshot_(snapshot), probe_(probe), folder_(config.output), requests_(requests), outcome_(outcome), console_(console),
      end_is_restored_(config.qk_restore.method != "none" && probes_at(config.probe, "restored")) {
  keep_rows_up_to(folder_ / "restores.jsonl", resumed_step);
  read_log();
}

void GateHook::read_log() {
  if (!std::filesystem::exists(folder_ / "log.jsonl")) return;
  JsonLinesReader reader(folder_ / "log.jsonl", {.allow_torn_end = true});
  while (reader.next()) {
    const nlohmann::json& row = reader.row();
    const bool is_event = row.contains("event");
    if (is_event && row["event"] == "gate") outcome_.events.push_back(nlohmann::ordered_json::parse(reader.text()));
    if (!is_event && row.contains("loss") && row["loss"].is_number()) losses_.push_back(row["loss"]);
  }
}

GateJudgement GateHook::judge(const GateConfigSection& gate) const {
  return judge_recall(gate, config_.probe, probe_.results(), stages_for(gate, probe_.results(), end_is_restored_));
}

void GateHook::record(size_t gate, const GateJudgement& judged, const std::string& stage, int64_t step) {
  const GateConfigSection& section = config_.gate[gate];
  nlohmann::ordered_json row = {{"step", step}, {"event", "gate"}, {"gate", gate}, {"action", section.action}, {"metric", section.metric}};
  if (!stage.empty()) row["stage"] = stage;
  row["rule"] = section.rule;
  row["bound"] = judged.bound;
  row["limit"] = judged.limit;
  row["value"] = judged.value;
  row["in_a_row"] = judged.in_a_row;
  row["reason"] = judged.text;
  console_.line(name_of(gate) + ", " + section.action + ": " + judged.text);
  if (std::find(outcome_.events.begin(), outcome_.events.end(), row) != outcome_.events.end()) return;  // of an earlier process
  outcome_.events.push_back(row);
  JsonLinesWriter(folder_ / "log.jsonl").write_row(row);
}

void GateHook::end_run(size_t gate, const GateJudgement& judged, bool at_end) {
  const std::string reason = name_of(gate) + ": " + judged.text;
  if (config_.gate[gate].action == "fail" && !at_end) throw Error(ExitCode::kGateFailed, reason);
  if (outcome_.reason.empty()) outcome_.reason = reason;
  requests_.stop = true;
}

void GateHook::act(const std::string& stage, int64_t step, bool at_end) {
  for (size_t i = 0; i < config_.gate.size(); ++i) {
    const GateConfigSection& gate = config_.gate[i];
    if (is_loss(gate) || gate.action == "restore") continue;
    const GateJudgement judged = judge(gate);
    if (!judged.acts(gate)) continue;
    record(i, judged, stage, step);
    if (gate.action != "warn") end_run(i, judged, at_end);
  }
}

void GateHook::judge_losses(int64_t step, bool at_end) {
  for (size_t i = 0; i < config_.gate.size(); ++i) {
    const GateConfigSection& gate = config_.gate[i];
    if (!is_loss(gate)) continue;
    const GateJudgement judged = judge_loss(gate, losses_, step);
    // A warning stands once in so many steps, not at each of a long stretch.
    if (!judged.acts(gate) || (gate.action == "warn" && judged.in_a_row % gate.in_a_row != 0)) continue;
    record(i, judged, "", step);
    if (gate.action != "warn") end_run(i, judged, at_end);
  }
}

void GateHook::restore_where_broken(const std::string& stage, TrainState& state) {
  bool put_back = false;
  for (size_t i = 0; i < config_.gate.size(); ++i) {
    if (config_.gate[i].action != "restore") continue;
    const GateJudgement judged = judge(config_.gate[i]);
    if (!judged.acts(config_.gate[i])) continue;
    record(i, judged, stage, state.step);
    if (put_back) continue;  // by another gate, at this same measurement
    restore_between_steps(config_.qk_restore, snapshot_, folder_ / "restores.jsonl", state.step, name_of(i) + ": " + judged.text, state, console_);
    put_back = true;
  }
  if (put_back) probe_.measure(stage + "-restored", state.step);
}

void GateHook::before_run(TrainState& state) {
  judge_losses(state.step, /*at_end=*/false);
  const std::string here = state.step == 0 ? "start" : "step-" + std::to_string(state.step);
  if (probe_.has(here)) act(probe_.has(here + "-restored") ? here + "-restored" : here, state.step, /*at_end=*/false);
}

void GateHook::after_step(const StepReport& report, TrainState& state) {
  losses_.push_back(report.loss);
  judge_losses(report.step, report.step == report.total_steps);
  const std::string here = "step-" + std::to_string(report.step);
  if (!probe_.has(here)) return;
  restore_where_broken(here, state);
  act(probe_.has(here + "-restored") ? here + "-restored" : here, report.step, /*at_end=*/false);
}

void GateHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  const std::string stage = end_is_restored_ ? "restored" : "end";
  if (probe_.has(stage)) act(stage, state.step, /*at_end=*/true);
}

}  // namespace qkr
