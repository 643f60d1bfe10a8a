// The learning rate of a step: warm-up from 0, then cosine, linear or constant.
#pragma once

#include <cstdint>

#include "trainer/config/run_config.h"

namespace qkr {

class Schedule {
 public:
  // warmup below 1 is a share of total_steps (rounded up), from 1 on a number of steps. total_steps >= 1.
  Schedule(const OptimConfigSection& config, int64_t total_steps);

  // `step` counts from 1; the first step of a warm-up of W runs at lr / W, step W at lr, the last step of a cosine or linear
  // decay at lr * min_lr_ratio.
  double at(int64_t step) const;
  int64_t warmup_steps() const { return warmup_; }

 private:
  OptimConfigSection config_;
  int64_t total_, warmup_;
};

}  // namespace qkr
