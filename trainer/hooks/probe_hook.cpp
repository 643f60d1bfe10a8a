#include "trainer/hooks/probe_hook.h"

#include <algorithm>
#include <memory>

#include "trainer/core/text.h"
#include "trainer/io/json_lines.h"
#include "trainer/probe/engine.h"
#include "trainer/probe/generator.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"

namespace qkr {
bool probes_at(const ProbeConfigSection& config, const std::string& stage) {
  return !config.lengths.empty() && std::find(config.at.begin(), config.at.end(), stage) != config.at.end();
}

RecallProbe::RecallProbe(const ProbeConfigSection& config, const Decoder& decoder, TextCodec codec, std::vector<NeedleItem> items,
                         const std::filesystem::path& file, int64_t resumed_step, Console& console)
    : config_(config), decoder_(decoder), codec_(std::move(codec)), items_(std::move(items)), file_(file), console_(console) {
  if (!file_.empty()) read_earlier(resumed_step);
}

void RecallProbe::read_earlier(int64_t resumed_step) {
  // "end" and "restored" belong to a finished run; a resumed one measures them anew.
  const auto stays = [&](const nlohmann::json& row) {
    const std::string stage = row.value("stage", "");
    return row.value("step", int64_t{0}) <= resumed_step && resumed_step > 0 && stage != "end" && stage != "restored";
  };
  if (keep_lines_while(file_, stays) == 0) return;
  {
    JsonLinesReader reader(file_);
    while (reader.next()) {
      results_.push_back(item_result_from_json(nlohmann::ordered_json::parse(reader.text()), reader.file() + ":" + std::to_string(reader.line())));
    }
  }
  const std::string last = results_.back().stage;
  const auto of_last = [&](const ItemResult& r) { return r.stage == last; };
  if (std::count_if(results_.begin(), results_.end(), of_last) >= static_cast<int64_t>(items_.size())) return;
  broken_stage_ = last;
  std::erase_if(results_, of_last);
  keep_lines_while(file_, [&](const nlohmann::json& row) { return row.value("stage", "") != last; });
}

bool RecallProbe::has(const std::string& stage) const {
  return std::any_of(results_.begin(), results_.end(), [&](const ItemResult& r) { return r.stage == stage; });
}

std::vector<ItemResult> RecallProbe::run(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items,
                                         const ProbeProgress& each) const {
  ProbeOptions options;
  options.stage = stage;
  options.step = step;
  options.reading = config_.reading;
  options.mode = config_.mode;
  options.max_new_tokens = config_.max_new_tokens;
  for (const int64_t id : decoder_.architecture().eos_ids) options.eos_ids.push_back(static_cast<int32_t>(id));
  int64_t hits = 0;
  const auto progress = [&](const ItemResult& result, int64_t done, int64_t total) {
    if (each) each(result, done, total);
    hits += result.hit ? 1 : 0;
    console_.status(progress_bar(done, total) + " probe " + stage + " " + std::to_string(done) + "/" + std::to_string(total) + ", " +
                    std::to_string(hits) + " found, last " + result.id + " in " + fixed(result.seconds, 2) + "s");
  };
  const EngineOptions engine{.prefill_chunk = config_.prefill_chunk};
  EngineUse use;
  std::vector<ItemResult> measured = config_.reading == "teacher_forced"
                                         ? run_teacher_forced(items, read_engine(decoder_, engine, &use), codec_, options, progress)
                                         : run_probe(items, text_engine(decoder_, engine, &use), codec_, options, progress);
  if (each && !measured.empty()) console_.line("  " + use_text(use));
  return measured;
}

void RecallProbe::print_rates(const std::vector<ItemResult>& measured) {
  for (const CellSummary& cell : summarise(measured)) {
    console_.line("  " + cell.task + "  " + std::to_string(cell.length) + "  n=" + std::to_string(cell.n) + "  " + rate_text(cell));
  }
}

void RecallProbe::measure(const std::string& stage, int64_t step) {
  if (items_.empty()) return;
  console_.line("probe " + stage + ": " + std::to_string(items_.size()) + " prompts, " +
                (config_.reading == "teacher_forced" ? "teacher-forced"
                                                     : "greedy, at most " + std::to_string(config_.max_new_tokens) + " new tokens"));
  std::unique_ptr<JsonLinesWriter> rows;
  if (!file_.empty()) rows = std::make_unique<JsonLinesWriter>(file_);
  const auto write = [&](const ItemResult& result, int64_t, int64_t) {
    if (rows) rows->write_row(to_json(result));
  };
  const auto measured = run(stage, step, items_, write);
  results_.insert(results_.end(), measured.begin(), measured.end());
  print_rates(measured);
}

std::vector<ItemResult> RecallProbe::measure_some(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items) const {
  return run(stage, step, items, {});
}

void RecallProbe::take(const std::vector<ItemResult>& measured) {
  if (measured.empty()) return;
  console_.line("probe " + measured[0].stage + ": " + std::to_string(measured.size()) + " prompts, measured above");
  if (!file_.empty()) {
    JsonLinesWriter rows(file_);
    for (const ItemResult& result : measured) rows.write_row(to_json(result));
  }
  results_.insert(results_.end(), measured.begin(), measured.end());
  print_rates(measured);
}

void ProbeHook::before_run(TrainState& state) {
  if (probes_at(config_, "start") && state.step == 0) probe_.measure("start", 0);
  const std::string here = "step-" + std::to_string(state.step);
  if (probe_.broken_stage() == here) probe_.measure(here, state.step);
}

void ProbeHook::after_step(const StepReport& report, TrainState&) {
  const bool due = config_.every > 0 && report.step % config_.every == 0 && report.step < report.total_steps;
  if (due) probe_.measure("step-" + std::to_string(report.step), report.step);
}

void ProbeHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kFinished && probes_at(config_, "end")) probe_.measure("end", state.step);
}

void RestoredProbeHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kFinished) probe_.measure("restored", state.step);
}

}  // namespace qkr
