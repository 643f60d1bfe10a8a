// Which rows make which step.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/loop/plan.h"

namespace qkr {
namespace {

// Rows of 1 to 60 tokens and one longer than a step.
std::vector<int64_t> row_sizes(int64_t count) {
  std::vector<int64_t> sizes;
  uint64_t state = 7;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    sizes.push_back(1 + static_cast<int64_t>((state >> 33) % 60));
  }
  sizes[count / 2] = 500;
  return sizes;
}

struct Walk {
  std::vector<PlannedStep> steps;
  std::vector<int64_t> rows;  // in the order of the stream
};

Walk walk(BatchPlan& plan) {
  Walk w;
  int64_t position = 0;
  for (int64_t step = 0; step < plan.total_steps(); ++step) {
    w.steps.push_back(plan.step_at(position));
    for (const auto& micro : w.steps.back().micro_batches) w.rows.insert(w.rows.end(), micro.begin(), micro.end());
    EXPECT_EQ(w.steps.back().next_sample, static_cast<int64_t>(w.rows.size()));
    position = w.steps.back().next_sample;
  }
  return w;
}

TrainConfigSection config_of(double epochs, int64_t tokens_per_step) {
  TrainConfigSection config;
  config.epochs = epochs;
  config.tokens_per_step = tokens_per_step;
  return config;
}

TEST(BatchPlan, EveryRowExactlyOnceAnEpoch) {
  const int64_t count = 23;
  for (const bool shuffle : {true, false}) {
    TrainConfigSection config = config_of(3, 150);
    config.shuffle = shuffle;
    BatchPlan plan(row_sizes(count), config, 70);
    EXPECT_EQ(plan.stream_rows(), 3 * count);
    const Walk w = walk(plan);
    ASSERT_EQ(w.rows.size(), static_cast<size_t>(3 * count));
    std::vector<std::vector<int64_t>> epochs;
    for (int64_t epoch = 0; epoch < 3; ++epoch) {
      epochs.emplace_back(w.rows.begin() + epoch * count, w.rows.begin() + (epoch + 1) * count);
      std::vector<int64_t> sorted = epochs.back();
      std::sort(sorted.begin(), sorted.end());
      for (int64_t i = 0; i < count; ++i) EXPECT_EQ(sorted[i], i) << "epoch " << epoch;
    }
    EXPECT_EQ(epochs[0] != epochs[1], shuffle);
    EXPECT_TRUE(plan.step_at(3 * count).micro_batches.empty());
  }
}

TEST(BatchPlan, StepsAndMicroBatchesKeepWithinTheirTokens) {
  const std::vector<int64_t> sizes = row_sizes(40);
  const auto tokens_of = [&](const std::vector<int64_t>& rows) {
    return std::accumulate(rows.begin(), rows.end(), int64_t{0},
                           [&](int64_t sum, int64_t row) { return sum + sizes[row]; });
  };
  for (const auto& [per_step, per_micro] :
       {std::pair<int64_t, int64_t>{150, 70}, {64, 64}, {1, 1}, {1000, 61}, {90, 1000}}) {
    BatchPlan plan(sizes, config_of(2.5, per_step), per_micro);
    const Walk w = walk(plan);
    int64_t at = 0;
    for (size_t s = 0; s < w.steps.size(); ++s) {
      int64_t in_step = 0, rows = 0, last = 0;
      for (const auto& micro : w.steps[s].micro_batches) {
        ASSERT_FALSE(micro.empty());
        EXPECT_TRUE(tokens_of(micro) <= per_micro || micro.size() == 1) << per_step << " " << per_micro;
        // As many as fit: the next micro-batch's first row would not have.
        if (last > 0) {
          EXPECT_GT(last + sizes[micro.front()], per_micro);
        }
        last = tokens_of(micro);
        in_step += last;
        rows += static_cast<int64_t>(micro.size());
      }
      EXPECT_TRUE(in_step <= per_step || rows == 1) << per_step;
      at += rows;
      if (s + 1 < w.steps.size()) {
        EXPECT_GT(in_step + sizes[w.rows[at]], per_step);
      }
    }
  }
}

TEST(BatchPlan, FractionsOfAnEpoch) {
  const int64_t count = 20;
  const auto rows_of = [&](double epochs) {
    return BatchPlan(row_sizes(count), config_of(epochs, 100), 100).stream_rows();
  };
  EXPECT_EQ(rows_of(0.5), 10);
  EXPECT_EQ(rows_of(1.25), 25);
  EXPECT_EQ(rows_of(0.001), 1);  // never nothing
  EXPECT_EQ(rows_of(2), 40);
  BatchPlan whole(row_sizes(count), config_of(2, 100), 100), part(row_sizes(count), config_of(1.25, 100), 100);
  const Walk w = walk(whole), p = walk(part);
  EXPECT_TRUE(std::equal(p.rows.begin(), p.rows.end(), w.rows.begin()));  // the same stream, cut
  EXPECT_DOUBLE_EQ(part.epoch_at(25), 1.25);
  EXPECT_DOUBLE_EQ(part.epoch_at(0), 0);
}

TEST(BatchPlan, MaxStepsCutsAndNeverAdds) {
  TrainConfigSection config = config_of(4, 100);
  const int64_t all = BatchPlan(row_sizes(20), config, 100).total_steps();
  EXPECT_GT(all, 5);
  config.max_steps = 5;
  EXPECT_EQ(BatchPlan(row_sizes(20), config, 100).total_steps(), 5);
  config.max_steps = all + 100;
  EXPECT_EQ(BatchPlan(row_sizes(20), config, 100).total_steps(), all);
}

TEST(BatchPlan, AnyStreamPositionGivesTheSameStepInAFreshPlan) {
  BatchPlan plan(row_sizes(17), config_of(3.3, 120), 60);
  const Walk w = walk(plan);
  for (int64_t s = static_cast<int64_t>(w.steps.size()) - 1; s > 0; --s) {
    BatchPlan fresh(row_sizes(17), config_of(3.3, 120), 60);
    const int64_t position = w.steps[s - 1].next_sample;
    EXPECT_EQ(fresh.step_at(position).micro_batches, w.steps[s].micro_batches);
    EXPECT_EQ(plan.step_at(position).micro_batches, w.steps[s].micro_batches);  // backwards over epochs too
  }
}

TEST(BatchPlan, TheSeedDecidesTheOrder) {
  TrainConfigSection config = config_of(1, 100);
  BatchPlan one(row_sizes(30), config, 100), same(row_sizes(30), config, 100);
  config.seed = 2;
  BatchPlan other(row_sizes(30), config, 100);
  const Walk w = walk(one);
  EXPECT_EQ(walk(same).rows, w.rows);
  EXPECT_NE(walk(other).rows, w.rows);
}

// More epochs than anybody waits for, and than an integer holds, are an error at once, but for a run that train.max_steps ends.
TEST(BatchPlan, EpochsWithoutAnEndAreAnError) {
  for (const double epochs : {1e10, 1e308}) {
    TrainConfigSection config = config_of(epochs, 100);
    const std::string says = "train.epochs: must be at most 3333333 of this data's 30 packed rows, or train.max_steps must end the run before, got ";
    EXPECT_EQ(QKR_MESSAGE_OF(BatchPlan(row_sizes(30), config, 100)).rfind(says, 0), 0u) << epochs;
    config.max_steps = 7;
    EXPECT_EQ(BatchPlan(row_sizes(30), config, 100).total_steps(), 7);
  }
}

TEST(BatchPlan, NoRowIsAnError) {
  EXPECT_EQ(QKR_MESSAGE_OF(BatchPlan({}, config_of(1, 100), 100)),
            "data.train: must have at least one row to train on, got none");
}

}  // namespace
}  // namespace qkr
