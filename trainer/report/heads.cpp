#include "trainer/report/heads.h"

#include <algorithm>
#include <cmath>

namespace qkr {

namespace {

constexpr double kLeastLoss = 0.01;

// The 97.5% quantile of Student's t: the normal one with its first corrections (Abramowitz and Stegun 26.7.5), exact for 1 and 2
// degrees, where those are too few.
double student(int64_t degrees) {
  if (degrees == 1) return 12.7062;
  if (degrees == 2) return 4.30265;
  constexpr double z = 1.959964;
  const double v = static_cast<double>(degrees), z2 = z * z;
  return z * (1 + (z2 + 1) / (4 * v) + ((5 * z2 + 16) * z2 + 3) / (96 * v * v) + (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * v * v * v));
}

std::optional<double> mass_of(const HeadRow& row, size_t layer_index, size_t head) {
  if (layer_index >= row.mass.size() || head >= row.mass[layer_index].size()) return std::nullopt;
  return row.mass[layer_index][head];
}

}  // namespace

MeanShare MeanShare::of(const std::vector<double>& values) {
  MeanShare share;
  share.n = static_cast<int64_t>(values.size());
  if (values.empty()) return share;
  const double n = static_cast<double>(share.n);
  for (const double value : values) share.mean += value / n;
  if (share.n < 2) return share;
  double square = 0;
  for (const double value : values) square += (value - share.mean) * (value - share.mean);
  const double reach = student(share.n - 1) * std::sqrt(square / (n - 1) / n);
  share.low = share.mean - reach;
  share.high = share.mean + reach;
  return share;
}

HeadMap::HeadMap(const std::vector<HeadRow>& rows) {
  if (rows.empty()) return;
  layers_ = rows.back().layers;
  const auto take = [&](const std::string& kind, const std::string& label, bool first) {
    std::optional<int64_t> step;
    for (const HeadRow& row : rows) {
      if (row.stage == kind && (!step || (first ? row.step < *step : row.step > *step))) step = row.step;
    }
    StageMap stage{label, {}};
    for (const HeadRow& row : rows) {
      if (row.stage == kind && row.step == step && row.layers == layers_) stage.rows[{row.task, row.length, row.id}] = &row;
    }
    if (stage.rows.empty()) return std::optional<size_t>();
    stages_.push_back(std::move(stage));
    return std::optional<size_t>(stages_.size() - 1);
  };
  start_ = take("start", "before SFT", true);
  end_ = take("end", "after SFT", false);
  restored_ = take("restored", "restored", false);
  for (const StageMap& stage : stages_) {
    for (const auto& [key, row] : stage.rows) {
      for (const std::vector<double>& layer : row->mass) heads_ = std::max(heads_, static_cast<int64_t>(layer.size()));
    }
  }
}

MeanShare HeadMap::share(size_t stage, size_t layer_index, size_t head) const {
  std::vector<double> values;
  for (const auto& [key, row] : stages_.at(stage).rows) {
    if (const std::optional<double> mass = mass_of(*row, layer_index, head)) values.push_back(*mass);
  }
  return MeanShare::of(values);
}

MeanShare HeadMap::change(size_t from, size_t to, size_t layer_index, size_t head) const {
  std::vector<double> values;
  for (const auto& [key, row] : stages_.at(from).rows) {
    const auto other = stages_.at(to).rows.find(key);
    if (other == stages_.at(to).rows.end()) continue;
    const std::optional<double> before = mass_of(*row, layer_index, head), after = mass_of(*other->second, layer_index, head);
    if (before && after) values.push_back(*after - *before);
  }
  return MeanShare::of(values);
}

std::vector<HeadChange> HeadMap::lost() const {
  std::vector<HeadChange> found;
  if (!start_ || !end_) return found;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    for (size_t head = 0; head < static_cast<size_t>(heads_); ++head) {
      HeadChange one{layers_[layer], static_cast<int64_t>(head), change(*start_, *end_, layer, head), std::nullopt};
      if (one.lost.n < 2 || one.lost.high >= 0 || one.lost.mean > -kLeastLoss) continue;
      if (restored_) one.gained = change(*end_, *restored_, layer, head);
      found.push_back(one);
    }
  }
  std::stable_sort(found.begin(), found.end(), [](const HeadChange& a, const HeadChange& b) { return a.lost.mean < b.lost.mean; });
  return found;
}

}  // namespace qkr
