#include "trainer/loop/plan.h"

#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/data/dataset.h"

namespace qkr {
namespace {

constexpr double kMaxRows = 1e8;  // of a stream, which is walked once before the first step: seconds

[[noreturn]] void fail_endless(const TrainConfigSection& config, double rows) {
  fail("train.epochs: must be at most ", static_cast<int64_t>(kMaxRows / rows), " of this data's ", static_cast<int64_t>(rows),
       " packed rows, or train.max_steps must end the run before, got ", config.epochs);
}

}  // namespace

BatchPlan::BatchPlan(std::vector<int64_t> row_tokens, const TrainConfigSection& config, int64_t micro_batch_tokens)
    : row_tokens_(std::move(row_tokens)), config_(config), micro_batch_tokens_(micro_batch_tokens) {
  if (row_tokens_.empty()) fail("data.train: must have at least one row to train on, got none");
  const double rows = static_cast<double>(row_tokens_.size());
  const bool endless = config.epochs * rows > kMaxRows;
  if (endless && config.max_steps == 0) fail_endless(config, rows);
  stream_rows_ = std::max<int64_t>(1, std::llround(std::min(config.epochs * rows, kMaxRows)));
  // Steps are counted by walking them: their sizes depend on which rows meet.
  for (int64_t position = 0; position < stream_rows_; ++total_steps_) {
    if (config.max_steps > 0 && total_steps_ == config.max_steps) break;
    position = step_at(position).next_sample;
  }
  if (endless && total_steps_ < config.max_steps) fail_endless(config, rows);
}

double BatchPlan::epoch_at(int64_t next_sample) const {
  return static_cast<double>(next_sample) / static_cast<double>(row_tokens_.size());
}

int64_t BatchPlan::row_at(int64_t position) {
  const int64_t count = static_cast<int64_t>(row_tokens_.size()), epoch = position / count;
  if (epoch != cached_epoch_) {
    order_ = epoch_order(count, config_.seed, epoch, config_.shuffle);
    cached_epoch_ = epoch;
  }
  return order_[position % count];
}

PlannedStep BatchPlan::step_at(int64_t next_sample) {
  PlannedStep step;
  int64_t in_step = 0, in_micro = 0;
  for (; next_sample < stream_rows_; ++next_sample) {
    const int64_t row = row_at(next_sample), tokens = row_tokens_[row];
    if (in_step > 0 && in_step + tokens > config_.tokens_per_step) break;
    if (step.micro_batches.empty() || in_micro + tokens > micro_batch_tokens_) {
      step.micro_batches.emplace_back();
      in_micro = 0;
    }
    step.micro_batches.back().push_back(row);
    in_step += tokens;
    in_micro += tokens;
  }
  step.next_sample = next_sample;
  return step;
}

}  // namespace qkr
