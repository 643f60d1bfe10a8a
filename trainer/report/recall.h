// Rows of probe.jsonl → rates and paired differences. The statistics themselves are the probe's (trainer/probe/statistics.h).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "trainer/report/run_data.h"

namespace qkr {

// One measurement of the whole grid.
struct Stage {
  std::string kind;   // "start" | "step" | "end" | "restored"
  int64_t step = 0;
  std::string label;  // "before SFT", "step 200", "after SFT", "restored"
};

struct Rate {
  int64_t hits = 0, n = 0;
  double rate = 0, low = 0, high = 0;  // shares; Wilson's 95% interval
};

// The same prompts at two stages. difference = rate at `to` − rate at `from`.
struct Change {
  int64_t both = 0, lost = 0, gained = 0, neither = 0;  // prompts
  double difference = 0, low = 0, high = 0;             // Newcombe's 95% interval for paired shares (method 10)
  double p = 1;                                         // exact McNemar, two-sided
  int64_t n() const { return both + lost + gained + neither; }
  bool significant() const { return p < 0.05; }
};

class Recall {
 public:
  // What to count over; an empty member means all.
  struct Where {
    std::string task;
    std::optional<int64_t> length;
    std::optional<int> band;  // depth band, 0 … bands() − 1
  };

  // Of a prompt measured twice at one stage (a resumed probe) the later row counts. Keeps pointers into `rows`.
  explicit Recall(const std::vector<ProbeRow>& rows);

  bool empty() const { return stages_.empty(); }
  const std::vector<Stage>& stages() const { return stages_; }         // in order: start, steps, end, restored
  const std::vector<std::string>& tasks() const { return tasks_; }     // sorted
  const std::vector<int64_t>& lengths() const { return lengths_; }     // ascending
  // Index of the first start, the last end, the last restored stage.
  std::optional<size_t> start() const { return start_; }
  std::optional<size_t> end() const { return end_; }
  std::optional<size_t> restored() const { return restored_; }
  // Those of the three that were measured, in that order.
  std::vector<size_t> main_stages() const;

  // Depth bands of equal width over 0 … 100%: ten, or five where a cell has too few prompts for ten.
  int bands() const { return bands_; }
  std::string band_label(int band) const;  // "0–19%"
  bool has_depths() const { return has_depths_; }

  Rate rate(size_t stage, const Where& where) const;
  Change paired(size_t from, size_t to, const Where& where) const;  // over prompts that both stages have

  // The row of a prompt at a stage, nullptr if it was not measured there.
  const ProbeRow* row(size_t stage, const ProbeRow& prompt) const;
  // The rows of a stage in the order task, length, id.
  std::vector<const ProbeRow*> rows(size_t stage) const;

 private:
  using PromptKey = std::tuple<std::string, int64_t, std::string>;  // task, length, id
  static PromptKey key(const ProbeRow& row) { return {row.task, row.length, row.id}; }
  int band_of(double depth) const;
  bool matches(const ProbeRow& row, const Where& where) const;
  void find_stages(const std::vector<ProbeRow>& rows);

  std::vector<Stage> stages_;
  std::vector<std::map<PromptKey, const ProbeRow*>> by_stage_;
  std::vector<std::string> tasks_;
  std::vector<int64_t> lengths_;
  std::optional<size_t> start_, end_, restored_;
  int bands_ = 5;
  bool has_depths_ = false;
};

}  // namespace qkr
