// From results to rates: one cell a stage, task, reading and length ("niah_single_2 teacher-forced"); two stages of the same items compared
// in pairs; both as text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/probe/runner.h"
#include "trainer/probe/statistics.h"

namespace qkr {

struct CellSummary {
  std::string stage, task;
  int64_t step = 0;
  int64_t length = 0;
  int64_t n = 0, hits = 0, nulls = 0;
  double rate = 0;    // hits / n
  Interval interval;  // of the rate, 95 %
  double score = 0;   // RULER's: mean x 100, two decimals
  double mean_seconds = 0;
};

// Cells in the order of their first result.
std::vector<CellSummary> summarise(const std::vector<ItemResult>& results);

// The same items before and after: `counts` has `after` as its first, so a gain is positive.
struct CellComparison {
  std::string before, after;  // stages
  std::string task;
  int64_t length = 0;
  Paired counts;          // only items that both stages measured
  double difference = 0;  // rate after - rate before
  Interval interval;      // of the difference, 95 %
  double p = 1;           // exact McNemar
};

// Cells that two stages share, paired by item id. A stage that measured an id twice counts its last
// result.
std::vector<CellComparison> compare(const std::vector<ItemResult>& results,
                                    const std::string& before, const std::string& after);

// Every stage with the one before it and with the first, in the order of appearance.
std::vector<CellComparison> compare_stages(const std::vector<ItemResult>& results);

// "niah_single_2  4096  n=25  88.0%  [70.0, 95.8]": a row a task and length, a column a stage, then
// one line a comparison. Empty without results. Ends with a newline.
std::string probe_table(const std::vector<ItemResult>& results);

// "88.0%  [70.0, 95.8]"; where items have several answers and some were found in part, RULER's score follows:
// "44.0%  [26.7, 62.9] score 81.00".
std::string rate_text(const CellSummary& cell);

}  // namespace qkr
