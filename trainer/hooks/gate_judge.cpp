#include "trainer/hooks/gate_judge.h"

#include <algorithm>
#include <map>

#include "trainer/config/fields.h"
#include "trainer/config/gate_metric.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/auto_samples.h"
#include "trainer/probe/statistics.h"
#include "trainer/probe/table_text.h"

namespace qkr {
namespace {

const std::string kRestoredEnding = "-restored";

// The prompts of a stage that the metric counts, each by its id.
std::map<std::string, const ItemResult*> prompts_of(const std::vector<ItemResult>& results, const std::string& stage, const GateMetric& metric,
                                                    const std::string& reading) {
  std::map<std::string, const ItemResult*> prompts;
  for (const ItemResult& r : results) {
    if (r.stage == stage && r.reading == reading && metric.holds(r.task, r.length)) prompts[r.id] = &r;
  }
  return prompts;
}

using Prompts = std::map<std::string, const ItemResult*>;

// Recall below gate.min.
void judge_min(const GateConfigSection& gate, const Prompts& now, const std::string& where, GateJudgement& out) {
  const int64_t n = static_cast<int64_t>(now.size());
  const int64_t hits = std::count_if(now.begin(), now.end(), [](const auto& prompt) { return prompt.second->hit; });
  const double rate = static_cast<double>(hits) / static_cast<double>(n);
  const Interval interval = wilson(hits, n);
  const double judged = 100 * (gate.rule == "lower" ? interval.low : rate);
  if (judged >= *gate.min) return;
  out.broken = true;
  out.bound = "min";
  out.value = judged;
  out.limit = *gate.min;
  out.text = concat("recall of ", gate.metric, " is ", percent_text(rate), "% [", percent_text(interval.low), ", ", percent_text(interval.high),
                    "] of ", n, " prompts", where, gate.rule == "lower" ? ", its lower limit below min " : ", below min ", number_text(*gate.min));
}

// Recall more than gate.max_drop points below that of the stage "start", over the prompts that both have.
void judge_drop(const GateConfigSection& gate, const Prompts& start, const Prompts& now, const std::string& where, GateJudgement& out) {
  std::map<std::pair<std::string, int64_t>, Paired> cells;
  for (const auto& [id, before] : start) {
    const auto after = now.find(id);
    if (after == now.end()) continue;
    Paired& cell = cells[{before->task, before->length}];
    ++(after->second->hit ? (before->hit ? cell.both : cell.only_first) : (before->hit ? cell.only_second : cell.neither));
  }
  std::vector<Paired> strata;
  for (const auto& [cell, counts] : cells) strata.push_back(counts);
  const Stratified change = stratified(strata);  // now - start
  const double judged = 100 * (gate.rule == "lower" ? change.interval.low : change.difference);
  if (change.pooled.n() == 0 || -judged <= *gate.max_drop) return;
  out.broken = true;
  out.bound = "max_drop";
  out.value = -judged;
  out.limit = *gate.max_drop;
  out.text = concat("recall of ", gate.metric, " has changed by ", points_text(change.difference), " points [", points_text(change.interval.low), ", ",
                    points_text(change.interval.high), "] since the start, ", change.pooled.n(), " prompts", where,
                    gate.rule == "lower" ? ", its lower limit a drop of more than max_drop " : ", a drop of more than max_drop ", number_text(*gate.max_drop));
}

}  // namespace

std::vector<std::string> stages_for(const GateConfigSection& gate, const std::vector<ItemResult>& results, bool end_is_restored) {
  std::vector<std::string> stages;
  for (const ItemResult& r : results) {
    if (std::find(stages.begin(), stages.end(), r.stage) == stages.end()) stages.push_back(r.stage);
  }
  if (end_is_restored) std::erase(stages, "end");
  std::vector<std::string> counted;
  for (const std::string& stage : stages) {
    if (gate.action == "restore") {
      if (ends_with(stage, kRestoredEnding)) counted.clear();
      if (starts_with(stage, "step-") && !ends_with(stage, kRestoredEnding)) counted.push_back(stage);
      continue;
    }
    if (!counted.empty() && stage == counted.back() + kRestoredEnding) counted.pop_back();
    counted.push_back(stage);
  }
  return counted;
}

GateJudgement judge_recall(const GateConfigSection& gate, const ProbeConfigSection& probe, const std::vector<ItemResult>& results,
                       const std::vector<std::string>& stages) {
  const std::optional<GateMetric> metric = parse_gate_metric(gate.metric, probe);
  if (!metric || metric->loss) fail("gate: must judge recall, got ", quoted(gate.metric));
  const std::string reading = score_reading(probe.reading);
  const Prompts start = prompts_of(results, "start", *metric, reading);
  GateJudgement last;
  for (const std::string& stage : stages) {
    const Prompts now = prompts_of(results, stage, *metric, reading);
    GateJudgement judged;
    const std::string where = " at " + stage;
    if (gate.min && !now.empty()) judge_min(gate, now, where, judged);
    if (gate.max_drop && !now.empty() && !judged.broken && stage != "start") judge_drop(gate, start, now, where, judged);
    judged.in_a_row = judged.broken ? last.in_a_row + 1 : 0;
    last = judged;
  }
  if (last.in_a_row > 1) last.text += concat(", ", last.in_a_row, " measurements in a row");
  return last;
}

GateJudgement judge_loss(const GateConfigSection& gate, const std::vector<double>& losses, int64_t step) {
  GateJudgement out;
  for (auto loss = losses.rbegin(); loss != losses.rend() && *loss > *gate.max; ++loss) ++out.in_a_row;
  if (out.in_a_row == 0) return out;
  out.broken = true;
  out.bound = "max";
  out.value = losses.back();
  out.limit = *gate.max;
  out.text = concat("loss is ", fixed(out.value, 4), " at step ", step, ", above max ", number_text(out.limit));
  if (out.in_a_row > 1) out.text += concat(", ", out.in_a_row, " steps in a row");
  return out;
}

}  // namespace qkr
