#include "trainer/optim/schedule.h"

#include <algorithm>
#include <cmath>

namespace qkr {

Schedule::Schedule(const OptimConfigSection& config, int64_t total_steps) : config_(config), total_(total_steps) {
  // Less than any share that is meant: 0.07 * 100 is 7.000000000000001 and means 7.
  constexpr double kRounding = 1e-9;
  const double asked = config.warmup < 1 ? std::ceil(config.warmup * static_cast<double>(total_steps) - kRounding) : config.warmup;
  warmup_ = std::min(static_cast<int64_t>(asked), total_steps);
}

double Schedule::at(int64_t step) const {
  if (step <= warmup_) return config_.lr * static_cast<double>(step) / static_cast<double>(warmup_);
  const int64_t span = std::max<int64_t>(total_ - warmup_, 1);
  const double progress = std::min(1.0, static_cast<double>(step - warmup_) / static_cast<double>(span));
  const double floor = config_.min_lr_ratio;
  if (config_.schedule == "cosine") return config_.lr * (floor + (1 - floor) * 0.5 * (1 + std::cos(M_PI * progress)));
  if (config_.schedule == "linear") return config_.lr * (floor + (1 - floor) * (1 - progress));
  return config_.lr;
}

}  // namespace qkr
