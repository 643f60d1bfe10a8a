// Rows of heads.jsonl → how much of each head's attention falls on the needle at each stage, and what changed.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "trainer/report/run_data.h"

namespace qkr {

// A mean over prompts with Student's 95% interval; from two prompts on, else as wide as shares are.
struct MeanShare {
  int64_t n = 0;
  double mean = 0, low = -1, high = 1;
  static MeanShare of(const std::vector<double>& values);
};

struct HeadChange {
  int64_t layer = 0, head = 0;
  MeanShare lost;                   // over prompts: share after SFT − before
  std::optional<MeanShare> gained;  // restored − after SFT
};

class HeadMap {
 public:
  // Stages and prompts as in Recall: the first start, the last end, the last restored; of a prompt measured twice the later row counts.
  // Rows of another set of layers than the last one's are left out.
  explicit HeadMap(const std::vector<HeadRow>& rows);

  struct StageMap {
    std::string label;  // "before SFT"
    using PromptKey = std::tuple<std::string, int64_t, std::string>;
    std::map<PromptKey, const HeadRow*> rows;
  };
  const std::vector<StageMap>& stages() const { return stages_; }  // those that were measured, in order
  const std::vector<int64_t>& layers() const { return layers_; }
  int64_t heads() const { return heads_; }  // the most that a layer has

  MeanShare share(size_t stage, size_t layer_index, size_t head) const;  // n = 0: no such head
  // Prompts that both stages have.
  MeanShare change(size_t from, size_t to, size_t layer_index, size_t head) const;

  // Heads whose share fell by at least a point with an interval below 0, the largest loss first. Needs before and after.
  std::vector<HeadChange> lost() const;
  std::optional<size_t> start() const { return start_; }
  std::optional<size_t> end() const { return end_; }
  std::optional<size_t> restored() const { return restored_; }

 private:
  std::vector<StageMap> stages_;
  std::vector<int64_t> layers_;
  int64_t heads_ = 0;
  std::optional<size_t> start_, end_, restored_;
};

}  // namespace qkr
