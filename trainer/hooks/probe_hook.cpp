#include "trainer/hooks/probe_hook.h"

#include <algorithm>
#include <memory>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/comparison.h"
#include "trainer/probe/engine.h"
#include "trainer/probe/generator.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"

namespace qkr {
namespace {

std::vector<ItemResult> of_stage(const std::vector<ItemResult>& results, const std::string& stage) {
  std::vector<ItemResult> chosen;
  std::copy_if(results.begin(), results.end(), std::back_inserter(chosen), [&](const ItemResult& r) { return r.stage == stage; });
  return chosen;
}

std::vector<ItemResult> read_rows(const std::filesystem::path& file) {
  std::vector<ItemResult> rows;
  JsonLinesReader reader(file, {.allow_torn_end = true});
  while (reader.next()) {
    rows.push_back(item_result_from_json(nlohmann::ordered_json::parse(reader.text()), concat(reader.file(), ":", reader.line())));
  }
  return rows;
}

}  // namespace

bool probes_at(const ProbeConfigSection& config, const std::string& stage) {
  return !config.lengths.empty() && std::find(config.at.begin(), config.at.end(), stage) != config.at.end();
}

class RecallProbe::Rows {
 public:
  explicit Rows(const std::filesystem::path& file) : writer_(file.empty() ? nullptr : std::make_unique<JsonLinesWriter>(file)) {}
  void write(const ItemResult& result) {
    if (writer_) writer_->write_row(to_json(result));
  }

 private:
  std::unique_ptr<JsonLinesWriter> writer_;
};

RecallProbe::RecallProbe(const ProbeConfigSection& config, const Decoder& decoder, TextCodec codec, std::vector<NeedleItem> items,
                         const std::filesystem::path& file, int64_t resumed_step, Console& console, ProbeOrigin origin, ItemPool pool)
    : config_(config), decoder_(decoder), codec_(std::move(codec)), items_(std::move(items)), file_(file), console_(console),
      origin_(std::move(origin)), pool_(std::move(pool)), settled_(!config.samples.is_auto()) {
  if (config_.heads && !file_.empty() && !items_.empty()) {
    heads_.emplace(decoder_, codec_, file_.parent_path() / "heads.jsonl", config_.prefill_chunk, resumed_step, console_);
  }
  if (!file_.empty() && std::filesystem::exists(file_)) read_earlier(resumed_step);
}

bool RecallProbe::is_whole(const std::vector<ItemResult>& stage) const {
  if (!settled_) {
    const std::vector<CellNeed> needs = cell_needs(config_, stage);
    return std::all_of(needs.begin(), needs.end(), [](const CellNeed& need) { return need.settled; });
  }
  const std::vector<std::string> readings = readings_of(config_.reading);
  const auto counts = [&](const ItemResult& r) { return std::find(readings.begin(), readings.end(), r.reading) != readings.end(); };
  return std::count_if(stage.begin(), stage.end(), counts) >= static_cast<int64_t>(items_.size() * readings.size());
}

// The items of every stage, once the first one is whole.
void RecallProbe::settle_items(const std::vector<ItemResult>& first_stage) {
  if (settled_ || !is_whole(first_stage)) return;
  items_ = pool_.items(cell_needs(config_, first_stage), /*only_open=*/false);
  settled_ = true;
}

void RecallProbe::read_earlier(int64_t resumed_step) {
  spare_ = read_rows(file_);
  // "end" and "restored" belong to a finished run; a resumed one measures them anew.
  const auto stays = [&](const std::string& stage, int64_t step) { return step <= resumed_step && resumed_step > 0 && stage != "end" && stage != "restored"; };
  for (size_t i = 0; i < spare_.size() && stays(spare_[i].stage, spare_[i].step); ++i) results_.push_back(spare_[i]);
  if (!results_.empty()) settle_items(of_stage(results_, results_[0].stage));
  const std::string last = results_.empty() ? "" : results_.back().stage;
  if (!results_.empty() && results_.back().step == resumed_step && !is_whole(of_stage(results_, last))) {
    broken_stage_ = last;
    std::erase_if(results_, [&](const ItemResult& r) { return r.stage == last; });
  }
  // Held against this run's prompts before anything is cut off.
  for (const std::string& reading : readings_of(config_.reading)) {
    std::vector<ItemResult> rows = spare_;
    std::erase_if(rows, [&](const ItemResult& r) { return r.reading != reading; });
    ProbeOptions options = options_of("", 0, reading);
    options.model.clear();  // it changes from stage to stage
    items_left(items_, rows, options, file_.string());
  }
  const int64_t kept = static_cast<int64_t>(results_.size());
  int64_t line = 0;
  keep_lines_while(file_, [&](const nlohmann::json&) { return line++ < kept; });
}

bool RecallProbe::has(const std::string& stage) const {
  return std::any_of(results_.begin(), results_.end(), [&](const ItemResult& r) { return r.stage == stage; });
}

ProbeOptions RecallProbe::options_of(const std::string& stage, int64_t step, const std::string& reading) const {
  ProbeOptions options;
  options.stage = stage;
  options.step = step;
  options.reading = reading;
  options.mode = config_.mode;
  options.max_new_tokens = config_.max_new_tokens;
  options.tokenizer = origin_.tokenizer;
  options.dtype = origin_.dtype;
  for (const int64_t id : decoder_.architecture().eos_ids) options.eos_ids.push_back(static_cast<int32_t>(id));
  return options;
}

std::vector<ItemResult> RecallProbe::run(const std::vector<NeedleItem>& items, const ProbeOptions& options, const ProbeProgress& each) const {
  int64_t hits = 0;
  const auto progress = [&](const ItemResult& result, int64_t done, int64_t total) {
    if (each) each(result, done, total);
    hits += result.hit ? 1 : 0;
    console_.status(progress_bar(done, total) + " probe " + options.stage + " " + std::to_string(done) + "/" + std::to_string(total) + ", " +
                    std::to_string(hits) + " found, last " + result.id + " in " + fixed(result.seconds, 2) + "s");
  };
  const EngineOptions engine{.prefill_chunk = config_.prefill_chunk};
  EngineUse use;
  std::vector<ItemResult> measured = options.reading == "teacher_forced"
                                         ? run_teacher_forced(items, read_engine(decoder_, engine, &use), codec_, options, progress)
                                         : run_probe(items, text_engine(decoder_, engine, &use), codec_, options, progress);
  if (each && !measured.empty()) console_.line("  " + use_text(use));
  return measured;
}

// Measures what neither `measured` nor, with the same weights, an earlier process has.
void RecallProbe::run_left(const std::vector<NeedleItem>& items, const ProbeOptions& options, Rows& rows, std::vector<ItemResult>& measured) const {
  std::vector<NeedleItem> left;
  for (const NeedleItem& item : items) {
    const auto same = [&](const ItemResult& r) { return r.id == item.id && r.reading == options.reading; };
    if (std::any_of(measured.begin(), measured.end(), same)) continue;
    const auto spare = std::find_if(spare_.begin(), spare_.end(), [&](const ItemResult& r) {
      return same(r) && r.model == options.model && r.mode == options.mode && r.max_new_tokens == result_of(item, options).max_new_tokens;
    });
    if (spare == spare_.end()) {
      left.push_back(item);
      continue;
    }
    measured.push_back(*spare);
    measured.back().stage = options.stage;
    measured.back().step = options.step;
    rows.write(measured.back());
  }
  const std::vector<ItemResult> fresh = run(left, options, [&](const ItemResult& result, int64_t, int64_t) { rows.write(result); });
  measured.insert(measured.end(), fresh.begin(), fresh.end());
}

void RecallProbe::announce(const std::string& stage) const {
  std::vector<std::string> how;
  for (const std::string& reading : readings_of(config_.reading)) {
    how.push_back(reading == "teacher_forced" ? "teacher-forced" : "greedy, at most " + std::to_string(config_.max_new_tokens) + " new tokens");
  }
  const std::string count = settled_ ? std::to_string(items_.size()) + " prompts"
                                     : concat("batches of ", kSampleBatch, " prompts a cell until its interval is at most ", fixed(config_.width, 1),
                                              " points wide, ", config_.max_samples, " at most");
  console_.line("probe " + stage + ": " + count + ", " + join(how, " and "));
}

void RecallProbe::finish_stage(const std::vector<ItemResult>& measured) {
  results_.insert(results_.end(), measured.begin(), measured.end());
  for (const CellSummary& cell : summarise(measured)) {
    console_.line("  " + cell.task + "  " + std::to_string(cell.length) + "  n=" + std::to_string(cell.n) + "  " + rate_text(cell));
  }
  const std::string agreement = agreement_table(measured);
  if (!agreement.empty()) console_.line("  how the two readings agree:\n" + agreement);
  if (heads_) heads_->measure(measured[0].stage, measured[0].step, measured[0].model, items_);
}

void RecallProbe::measure(const std::string& stage, int64_t step) {
  if (items_.empty()) return;
  announce(stage);
  Rows rows(file_);
  std::vector<ItemResult> measured;
  const std::string model = weights_digest(decoder_.weights(), origin_.settings);
  const auto measure_all = [&](const std::vector<NeedleItem>& items) {
    for (const std::string& reading : readings_of(config_.reading)) {
      ProbeOptions options = options_of(stage, step, reading);
      options.model = model;
      run_left(items, options, rows, measured);
    }
  };
  if (settled_) {
    measure_all(items_);
  } else {
    items_ = measure_until_settled(config_, pool_, measured, measure_all);
    settled_ = true;
  }
  finish_stage(measured);
}

std::vector<ItemResult> RecallProbe::measure_some(const std::string& stage, int64_t step, const std::vector<NeedleItem>& items) const {
  ProbeOptions options = options_of(stage, step, score_reading(config_.reading));
  options.model = weights_digest(decoder_.weights(), origin_.settings);
  return run(items, options, {});
}

void RecallProbe::take(const std::vector<ItemResult>& measured) {
  if (measured.empty()) return;
  console_.line("probe " + measured[0].stage + ": " + std::to_string(measured.size()) + " prompts, measured above");
  Rows rows(file_);
  for (const ItemResult& result : measured) rows.write(result);
  std::vector<ItemResult> all = measured;
  for (const std::string& reading : readings_of(config_.reading)) {
    ProbeOptions options = options_of(measured[0].stage, measured[0].step, reading);
    options.model = measured[0].model;
    run_left(items_, options, rows, all);
  }
  finish_stage(all);
}

void ProbeHook::before_run(TrainState& state) {
  if (probes_at(config_, "start") && state.step == 0) probe_.measure("start", 0);
  const std::string here = "step-" + std::to_string(state.step);
  const bool due = config_.every > 0 && state.step > 0 && state.step % config_.every == 0 && state.step < total_steps_;
  if (due) probe_.owe(here);
  for (const std::string& stage : {here, here + "-restored"}) {
    if (probe_.broken_stage() == stage) probe_.measure(stage, state.step);
  }
}

void ProbeHook::after_step(const StepReport& report, TrainState&) {
  const bool asked = requests_ != nullptr && requests_->probe;
  const bool due = config_.every > 0 && report.step % config_.every == 0;
  if ((due || asked) && report.step < report.total_steps) probe_.measure("step-" + std::to_string(report.step), report.step);
}

void ProbeHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kFinished && probes_at(config_, "end")) probe_.measure("end", state.step);
}

void RestoredProbeHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kFinished) probe_.measure("restored", state.step);
}

}  // namespace qkr
