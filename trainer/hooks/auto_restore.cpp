#include "trainer/hooks/auto_restore.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/core/text.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/io/atomic.h"
#include "trainer/io/json_lines.h"
#include "trainer/model/segments.h"
#include "trainer/optim/adamw.h"
#include "trainer/probe/record.h"
#include "trainer/restore/candidates.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

// The tuned values of what a candidate may write. Put back when it goes out of scope, so that no error leaves a candidate behind.
class TunedWeights {
 public:
  TunedWeights(const NamedTensors& live, const Snapshot& snapshot) : live_(live) {
    for (const auto& [name, kept] : snapshot.tensors()) tuned_.set(name, live.at(name).detach().clone());
  }
  ~TunedWeights() {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tuned] : tuned_) at::Tensor(live_.at(name)).copy_(tuned);
  }
  TunedWeights(const TunedWeights&) = delete;
  TunedWeights& operator=(const TunedWeights&) = delete;

 private:
  const NamedTensors& live_;
  NamedTensors tuned_;
};

}  // namespace

std::vector<int64_t> held_out_samples(int64_t samples, int64_t count) {
  if (count >= samples) fail("qk_restore.held_out: must leave a row to train on, got ", count, " of ", samples, " samples");
  std::vector<int64_t> chosen;
  for (int64_t i = 0; i < count; ++i) chosen.push_back((2 * i + 1) * samples / (2 * count));  // the middle of each of `count` stretches
  return chosen;
}

double mean_loss(const Decoder& decoder, const std::vector<Batch>& batches) {
  const at::NoGradGuard no_grad;
  int64_t labelled = 0;
  for (const Batch& batch : batches) labelled += batch.labelled;
  double sum = 0;
  for (const Batch& batch : batches) {
    const Segments segments = Segments::packed(batch.cu_seqlens, decoder.device());
    const at::Tensor tokens = batch.tokens.to(decoder.device()), targets = batch.targets.to(decoder.device());
    sum += decoder.loss(tokens, targets, segments, 1.0 / static_cast<double>(labelled)).item<double>();
  }
  return sum;
}

AutoRestoreHook::AutoRestoreHook(const RunConfig& config, const Snapshot& snapshot, const Decoder& decoder, std::vector<Batch> held_out,
                                 RecallProbe& probe, Console& console)
    : config_(config), snapshot_(snapshot), decoder_(decoder), held_out_(std::move(held_out)), probe_(probe), console_(console) {}

std::vector<bool> AutoRestoreHook::measure(const std::string& candidate, int64_t step, const std::vector<NeedleItem>& items) {
  std::vector<ItemResult> measured;
  if (candidate == "none" && probe_.has("end")) {  // greedy decoding of the same weights gives the same text
    for (const NeedleItem& item : items) {
      const auto same = [&](const ItemResult& r) { return r.stage == "end" && r.id == item.id && r.reading == score_reading(config_.probe.reading); };
      measured.push_back(*std::find_if(probe_.results().begin(), probe_.results().end(), same));
      measured.back().stage = candidate;
    }
  } else {
    measured = probe_.measure_some(candidate, step, items);
  }
  std::vector<bool> found;
  JsonLinesWriter rows(fs::path(config_.output) / "candidates.jsonl");
  for (const ItemResult& result : measured) {
    found.push_back(result.hit);
    rows.write_row(to_json(result));
  }
  results_.insert(results_.end(), measured.begin(), measured.end());
  return found;
}

Trial AutoRestoreHook::attempt(const std::string& candidate, TrainState& state) {
  Trial trial{candidate, "", 0, {}};
  console_.status("auto: trying " + candidate);
  const RestoreConfigSection section = candidate_section(config_.qk_restore, candidate);
  trial.refusal = restore_refusal(snapshot_, section);
  if (!trial.refusal.empty()) return trial;
  const TunedWeights put_back(state.weights, snapshot_);
  try {
    if (candidate != "none") restore(state.weights, snapshot_, section);
  } catch (const Error& error) {  // what only the tuned weights show: gains that moved apart, a Gram matrix without a Cholesky factor
    trial.refusal = error.what();
    return trial;
  }
  trial.loss = mean_loss(decoder_, held_out_);
  trial.found = measure(candidate, state.step, halves_.selection);
  return trial;
}

// Fills before and after, if the start was measured. By then results_ has every prompt with the tuned weights.
void AutoRestoreHook::compare_with_start(AutoReport& report) const {
  if (!probe_.has("start")) return;
  const auto found = [](const std::vector<ItemResult>& results, const std::string& stage, const ItemResult& like) {
    const auto same = [&](const ItemResult& r) { return r.stage == stage && r.id == like.id && r.reading == like.reading; };
    const auto there = std::find_if(results.begin(), results.end(), same);
    return there == results.end() ? nullptr : &*there;
  };
  for (const ItemResult& tuned : results_) {
    if (tuned.stage != "none") continue;
    const ItemResult* start = found(probe_.results(), "start", tuned);
    if (start == nullptr) continue;
    report.before.push_back(start->hit);
    report.after.push_back(tuned.hit);
  }
}

// The stage "restored" of what was chosen, in the order of the items: it has been measured, half by half.
void AutoRestoreHook::record_restored(const std::string& chosen) {
  if (!probes_at(config_.probe, "restored")) return;
  std::vector<ItemResult> restored;
  for (const NeedleItem& item : probe_.items()) {
    const auto same = [&](const ItemResult& r) { return r.stage == chosen && r.id == item.id; };
    restored.push_back(*std::find_if(results_.begin(), results_.end(), same));
    restored.back().stage = "restored";
  }
  probe_.take(restored);
}

void AutoRestoreHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  const fs::path out = config_.output;
  fs::remove(out / "candidates.jsonl");  // of an earlier end of this same run
  results_.clear();
  halves_ = {};
  for (const NeedleItem& item : probe_.items()) (item.index % 2 == 0 ? halves_.selection : halves_.report).push_back(item);
  std::vector<Trial> trials;
  for (const std::string& candidate : config_.qk_restore.candidates) trials.push_back(attempt(candidate, state));
  const AutoChoice choice = choose_candidate(trials, config_.qk_restore.max_loss_increase);
  const std::string& chosen = trials[choice.chosen].name;

  AutoReport other_half;
  other_half.none = measure("none", state.step, halves_.report);
  const RestoreReport report = restore(state.weights, snapshot_, candidate_section(config_.qk_restore, chosen));
  for (const LayerReport& layer : report.layers) reset_masters(state.optim, layer.written);
  compare_with_start(other_half);
  other_half.chosen = choice.chosen == 0 ? other_half.none : measure(chosen, state.step, halves_.report);

  AutoScope scope;
  for (const Batch& batch : held_out_) {
    scope.held_out_rows += static_cast<int64_t>(batch.cu_seqlens.size()) - 1;
    scope.held_out_tokens += batch.labelled;
  }
  scope.max_loss_increase = config_.qk_restore.max_loss_increase;
  nlohmann::json json = to_json(report);
  json["auto"] = auto_json(trials, choice, other_half, scope);
  write_file_atomically(out / "restore.json", json.dump(2) + "\n");
  console_.line(auto_table(trials, choice, other_half, scope));
  console_.line(restore_text(report));
  record_restored(chosen);
}

}  // namespace qkr
