#include "trainer/probe/auto_samples.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/probe/statistics.h"

namespace qkr {
namespace {

// hit, by the prompt's index; of one cell and reading.
using Hits = std::map<int64_t, bool>;

bool is_narrow(const Hits& hits, int64_t count, double width) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += hits.at(i) ? 1 : 0;
  const Interval interval = wilson(found, count);
  return 100 * (interval.high - interval.low) <= width;
}

bool has_all(const Hits& hits, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (hits.count(i) == 0) return false;
  }
  return true;
}

CellNeed need_of(const ProbeConfigSection& config, const std::string& task, int64_t length, const std::vector<Hits>& by_reading) {
  CellNeed need{task, length, 0, false};
  while (true) {
    need.count = std::min(need.count + kSampleBatch, config.max_samples);
    const auto measured = [&](const Hits& hits) { return has_all(hits, need.count); };
    if (!std::all_of(by_reading.begin(), by_reading.end(), measured)) return need;
    const auto narrow = [&](const Hits& hits) { return is_narrow(hits, need.count, config.width); };
    need.settled = need.count == config.max_samples || std::all_of(by_reading.begin(), by_reading.end(), narrow);
    if (need.settled) return need;
  }
}

}  // namespace

std::vector<std::string> readings_of(const std::string& reading) {
  if (reading == "both") return {"generate", "teacher_forced"};
  return {reading};
}

std::string score_reading(const std::string& reading) { return readings_of(reading)[0]; }

std::vector<CellNeed> cell_needs(const ProbeConfigSection& config, const std::vector<ItemResult>& measured) {
  std::vector<CellNeed> needs;
  const std::vector<std::string> readings = readings_of(config.reading);
  for (const std::string& task : config.tasks) {
    for (const int64_t length : config.lengths) {
      std::vector<Hits> by_reading(readings.size());
      for (const ItemResult& r : measured) {
        const auto reading = std::find(readings.begin(), readings.end(), r.reading);
        if (r.task != task || r.length != length || reading == readings.end()) continue;
        by_reading[static_cast<size_t>(reading - readings.begin())][r.index] = r.hit;
      }
      needs.push_back(need_of(config, task, length, by_reading));
    }
  }
  return needs;
}

std::vector<NeedleItem> ItemPool::items(const std::vector<CellNeed>& needs, bool only_open) {
  std::vector<NeedleItem> all;
  for (const CellNeed& need : needs) {
    if (only_open && need.settled) continue;
    std::vector<NeedleItem>& cell = drawn_[{need.task, need.length}];
    const int64_t there = static_cast<int64_t>(cell.size());
    if (there < need.count) {
      std::vector<NeedleItem> more = draw_(need.task, need.length, there, need.count - there);
      cell.insert(cell.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
    }
    all.insert(all.end(), cell.begin(), cell.begin() + need.count);
  }
  return all;
}

std::vector<NeedleItem> measure_until_settled(const ProbeConfigSection& config, ItemPool& pool, std::vector<ItemResult>& results,
                                              const std::function<void(const std::vector<NeedleItem>&)>& measure) {
  while (true) {
    const std::vector<CellNeed> needs = cell_needs(config, results);
    if (std::all_of(needs.begin(), needs.end(), [](const CellNeed& need) { return need.settled; })) return pool.items(needs, false);
    const size_t before = results.size();
    measure(pool.items(needs, /*only_open=*/true));
    if (results.size() == before) fail_run("probe: a batch of prompts gave no result");
  }
}

}  // namespace qkr
