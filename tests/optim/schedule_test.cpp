// The learning rate of every step.
#include <gtest/gtest.h>

#include <cmath>

#include "trainer/optim/schedule.h"

namespace qkr {
namespace {

OptimConfigSection config_of(const std::string& schedule, double warmup, double min_ratio = 0.0) {
  OptimConfigSection config;
  config.lr = 4e-3;
  config.schedule = schedule;
  config.warmup = warmup;
  config.min_lr_ratio = min_ratio;
  return config;
}

TEST(Schedule, WarmUpIsAShareBelowOneAndStepsFromOneOn) {
  EXPECT_EQ(Schedule(config_of("cosine", 0), 100).warmup_steps(), 0);
  EXPECT_EQ(Schedule(config_of("cosine", 0.03), 100).warmup_steps(), 3);
  EXPECT_EQ(Schedule(config_of("cosine", 0.03), 101).warmup_steps(), 4);  // rounded up
  EXPECT_EQ(Schedule(config_of("cosine", 0.03), 1).warmup_steps(), 1);
  EXPECT_EQ(Schedule(config_of("cosine", 1), 100).warmup_steps(), 1);
  EXPECT_EQ(Schedule(config_of("cosine", 25), 100).warmup_steps(), 25);
  EXPECT_EQ(Schedule(config_of("cosine", 250), 100).warmup_steps(), 100);  // never longer than the run
  for (int64_t percent = 1; percent < 100; ++percent) {                    // 0.07 * 100 is 7.000000000000001 in binary
    EXPECT_EQ(Schedule(config_of("cosine", static_cast<double>(percent) / 100), 100).warmup_steps(), percent);
  }
}

TEST(Schedule, WarmUpIsLinearFromZero) {
  for (const char* name : {"cosine", "linear", "constant"}) {
    const Schedule schedule(config_of(name, 8), 50);
    for (int64_t step = 1; step <= 8; ++step)
      EXPECT_DOUBLE_EQ(schedule.at(step), 4e-3 * static_cast<double>(step) / 8) << name;
    EXPECT_EQ(schedule.at(8), 4e-3) << name;
  }
}

TEST(Schedule, CosineFollowsItsCurveToTheEnd) {
  for (const double ratio : {0.0, 0.1, 1.0}) {
    const Schedule schedule(config_of("cosine", 10, ratio), 110);
    for (int64_t step = 11; step <= 110; ++step) {
      const double turn = M_PI * static_cast<double>(step - 10) / 100;
      EXPECT_NEAR(schedule.at(step), 4e-3 * (ratio + (1 - ratio) * (1 + std::cos(turn)) / 2), 1e-15) << step;
    }
    EXPECT_NEAR(schedule.at(60), 4e-3 * (1 + ratio) / 2, 1e-15);
    EXPECT_NEAR(schedule.at(110), 4e-3 * ratio, 1e-18);
  }
}

TEST(Schedule, LinearFollowsItsLineToTheEnd) {
  const Schedule schedule(config_of("linear", 10, 0.2), 110);
  EXPECT_NEAR(schedule.at(11), 4e-3 * (1 - 0.8 * 0.01), 1e-15);
  EXPECT_NEAR(schedule.at(60), 4e-3 * 0.6, 1e-15);
  EXPECT_NEAR(schedule.at(109), 4e-3 * (0.2 + 0.8 * 0.01), 1e-15);
  EXPECT_NEAR(schedule.at(110), 4e-3 * 0.2, 1e-15);
}

TEST(Schedule, ConstantStays) {
  const Schedule schedule(config_of("constant", 0, 0.5), 20);
  for (int64_t step = 1; step <= 20; ++step) EXPECT_EQ(schedule.at(step), 4e-3);
}

TEST(Schedule, NeverRisesAfterTheWarmUpAndIsNeverNegative) {
  for (const char* name : {"cosine", "linear"}) {
    for (const int64_t total : {1, 2, 3, 7, 1000}) {
      for (const double warmup : {0.0, 0.03, 0.5, 2.0}) {
        const Schedule schedule(config_of(name, warmup), total);
        for (int64_t step = 1; step <= total; ++step) {
          EXPECT_GE(schedule.at(step), 0);
          EXPECT_LE(schedule.at(step), 4e-3);
          if (step > schedule.warmup_steps() + 1) {
            EXPECT_LT(schedule.at(step), schedule.at(step - 1));
          }
        }
      }
    }
  }
}

TEST(Schedule, OfOneStepWithoutWarmUpEndsAtOnce) {
  EXPECT_NEAR(Schedule(config_of("cosine", 0), 1).at(1), 0, 1e-18);
  EXPECT_EQ(Schedule(config_of("cosine", 1), 1).at(1), 4e-3);
}

}  // namespace
}  // namespace qkr
