#include "trainer/report/recall.h"

#include <algorithm>
#include <set>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/core/whole.h"
#include "trainer/probe/statistics.h"

namespace qkr {

namespace {

// Ten bands need about five prompts each to say anything.
constexpr int64_t kPromptsForTenBands = 50;

int order_of(const std::string& kind) {
  if (kind == "start") return 0;
  if (kind == "end") return 2;
  return kind == "restored" ? 3 : 1;
}

std::string label_of(const std::string& kind, int64_t step) {
  if (kind == "start") return "before SFT";
  if (kind == "end") return "after SFT";
  if (kind == "restored") return "restored";
  if (starts_with(kind, "step")) return concat("step ", group_digits(step), ends_with(kind, "-restored") ? ", restored" : "");
  return concat(kind, " ", group_digits(step));
}

}  // namespace

Recall::Recall(const std::vector<ProbeRow>& rows) {
  find_stages(rows);
  by_stage_.resize(stages_.size());
  std::set<std::string> tasks;
  std::set<int64_t> lengths;
  for (const ProbeRow& row : rows) {
    for (size_t stage = 0; stage < stages_.size(); ++stage) {
      if (stages_[stage].kind == row.stage && stages_[stage].step == row.step) by_stage_[stage][key(row)] = &row;
    }
    tasks.insert(row.task);
    lengths.insert(row.length);
    has_depths_ = has_depths_ || row.depth.has_value();
  }
  tasks_.assign(tasks.begin(), tasks.end());
  lengths_.assign(lengths.begin(), lengths.end());
  std::map<std::pair<std::string, int64_t>, int64_t> prompts;
  for (const auto& measured : by_stage_) {
    prompts.clear();
    for (const auto& [prompt, row] : measured) {
      if (++prompts[{row->task, row->length}] >= kPromptsForTenBands) bands_ = 10;
    }
  }
}

void Recall::find_stages(const std::vector<ProbeRow>& rows) {
  std::set<std::tuple<int, int64_t, std::string>> found;
  for (const ProbeRow& row : rows) found.emplace(order_of(row.stage), row.step, row.stage);
  for (const auto& [order, step, kind] : found) {
    const size_t index = stages_.size();
    stages_.push_back({kind, step, label_of(kind, step)});
    if (kind == "start" && !start_) start_ = index;
    if (kind == "end") end_ = index;
    if (kind == "restored") restored_ = index;
  }
}

std::vector<size_t> Recall::main_stages() const {
  std::vector<size_t> found;
  for (const std::optional<size_t>& stage : {start_, end_, restored_}) {
    if (stage) found.push_back(*stage);
  }
  return found;
}

std::string Recall::band_label(int band) const {
  const int width = 100 / bands_;
  return concat(band * width, "–", band + 1 == bands_ ? 100 : (band + 1) * width - 1, "%");
}

int Recall::band_of(double depth) const {
  return static_cast<int>(std::clamp<int64_t>(whole(depth * bands_ / 100), 0, bands_ - 1));
}

bool Recall::matches(const ProbeRow& row, const Where& where) const {
  return (where.task.empty() || row.task == where.task) && (!where.length || row.length == *where.length) &&
         (!where.band || (row.depth && band_of(*row.depth) == *where.band));
}

Rate Recall::rate(size_t stage, const Where& where) const {
  Rate rate;
  for (const auto& [prompt, row] : by_stage_.at(stage)) {
    if (!matches(*row, where)) continue;
    ++rate.n;
    rate.hits += row->hit;
  }
  if (rate.n == 0) return rate;
  const Interval interval = wilson(rate.hits, rate.n);
  rate.rate = static_cast<double>(rate.hits) / static_cast<double>(rate.n);
  rate.low = interval.low;
  rate.high = interval.high;
  return rate;
}

Change Recall::paired(size_t from, size_t to, const Where& where) const {
  Change pair;
  for (const auto& [prompt, before] : by_stage_.at(from)) {
    const auto found = by_stage_.at(to).find(prompt);
    if (found == by_stage_.at(to).end() || !matches(*before, where)) continue;
    const bool after_hit = found->second->hit;
    ++(before->hit ? (after_hit ? pair.both : pair.lost) : (after_hit ? pair.gained : pair.neither));
  }
  if (pair.n() == 0) return pair;
  const Paired counts{pair.both, pair.gained, pair.lost, pair.neither};  // "first" is the later stage: later − earlier
  const Interval interval = newcombe_paired(counts);
  pair.difference = counts.difference();
  pair.low = interval.low;
  pair.high = interval.high;
  pair.p = mcnemar_exact(pair.gained, pair.lost);
  return pair;
}

const ProbeRow* Recall::row(size_t stage, const ProbeRow& prompt) const {
  const auto found = by_stage_.at(stage).find(key(prompt));
  return found == by_stage_.at(stage).end() ? nullptr : found->second;
}

std::vector<const ProbeRow*> Recall::rows(size_t stage) const {
  std::vector<const ProbeRow*> found;
  for (const auto& [prompt, row] : by_stage_.at(stage)) found.push_back(row);
  return found;
}

}  // namespace qkr
