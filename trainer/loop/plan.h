// Which packed rows make which step. The rows of all epochs form one stream; a step is a stretch of it, so that a resume needs
// to know one number: the first row that no step has used.
#pragma once

#include <cstdint>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

// One optimizer step: its micro-batches, each a list of row indices.
struct PlannedStep {
  std::vector<std::vector<int64_t>> micro_batches;
  int64_t next_sample = 0;  // stream position after it
};

class BatchPlan {
 public:
  // `row_tokens`: tokens of each packed row. A step takes rows while they fit into train.tokens_per_step, one at least; so does
  // a micro-batch with `micro_batch_tokens`. Error if there is no row, or no end to them.
  BatchPlan(std::vector<int64_t> row_tokens, const TrainConfigSection& config, int64_t micro_batch_tokens);

  int64_t total_steps() const { return total_steps_; }
  int64_t stream_rows() const { return stream_rows_; }
  double epoch_at(int64_t next_sample) const;

  // The step that begins at stream position `next_sample`; no micro-batch if the stream has ended.
  PlannedStep step_at(int64_t next_sample);

 private:
  int64_t row_at(int64_t position);

  std::vector<int64_t> row_tokens_;
  TrainConfigSection config_;
  int64_t micro_batch_tokens_, stream_rows_ = 0, total_steps_ = 0;
  int64_t cached_epoch_ = -1;
  std::vector<int64_t> order_;  // of cached_epoch_
};

}  // namespace qkr
