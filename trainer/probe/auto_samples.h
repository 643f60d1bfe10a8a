// probe.samples: auto. A cell (task x length) takes batches of prompts until its interval is narrow enough or its budget is used.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/probe/items.h"
#include "trainer/probe/runner.h"

namespace qkr {

constexpr int64_t kSampleBatch = 10;  // prompts of a cell between two looks at its interval

// "both" → generate, teacher_forced; else the one.
std::vector<std::string> readings_of(const std::string& reading);
// Of which recall is told where one number is asked for: generate, unless teacher_forced is all there is.
std::string score_reading(const std::string& reading);

struct CellNeed {
  std::string task;
  int64_t length = 0;
  int64_t count = 0;     // prompts 0 .. count - 1 are wanted
  bool settled = false;  // all of them are measured, and more are not needed or not allowed
};

// For every cell of the configuration. `measured`: rows of one stage, in any order. The look after every batch is repeated from the first
// on, so that a probe that was killed within a batch comes to the counts of one that was not. A cell is settled where the interval of each
// reading is at most config.width points wide, or at config.max_samples.
std::vector<CellNeed> cell_needs(const ProbeConfigSection& config, const std::vector<ItemResult>& measured);

// Prompts of cells, each drawn once.
class ItemPool {
 public:
  // The prompts first .. first + count - 1 of a cell.
  using Drawer = std::function<std::vector<NeedleItem>(const std::string& task, int64_t length, int64_t first, int64_t count)>;

  ItemPool() = default;
  explicit ItemPool(Drawer draw) : draw_(std::move(draw)) {}
  explicit operator bool() const { return static_cast<bool>(draw_); }

  // The first need.count prompts of each of the cells, cell after cell. `only_open`: of those that are not settled.
  std::vector<NeedleItem> items(const std::vector<CellNeed>& needs, bool only_open);

 private:
  Drawer draw_;
  std::map<std::pair<std::string, int64_t>, std::vector<NeedleItem>> drawn_;
};

// Calls measure(prompts) until every cell is settled; it adds the results of those that `results` (of one stage) does not hold yet, by
// every reading. Returns the prompts, cell after cell.
std::vector<NeedleItem> measure_until_settled(const ProbeConfigSection& config, ItemPool& pool, std::vector<ItemResult>& results,
                                              const std::function<void(const std::vector<NeedleItem>&)>& measure);

}  // namespace qkr
