// samples auto: how many prompts a cell takes, from its rows alone.
#include "trainer/probe/auto_samples.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "trainer/probe/statistics.h"

namespace qkr {
namespace {

ProbeConfigSection config_of(double width, int64_t most, const std::string& reading = "generate") {
  ProbeConfigSection config;
  config.tasks = {"niah_single_1", "niah_single_2"};
  config.lengths = {1024};
  config.samples = 0;
  config.width = width;
  config.max_samples = most;
  config.reading = reading;
  return config;
}

ItemResult row(const std::string& task, int64_t index, bool hit, const std::string& reading = "generate") {
  ItemResult r;
  r.stage = "probe";
  r.task = task;
  r.length = 1024;
  r.index = index;
  r.hit = hit;
  r.reading = reading;
  r.id = task + "/" + std::to_string(index);
  return r;
}

NeedleItem item_of(const std::string& task, int64_t length, int64_t index) {
  NeedleItem item;
  item.task = parse_needle_task(task);
  item.length = length;
  item.index = index;
  item.id = task + "/" + std::to_string(index);
  return item;
}

// A model that finds the first needle always and every second one of the other task.
bool found(const NeedleItem& item) { return item.task == NeedleTask::kSingle1 || item.index % 2 == 0; }

struct Probe {
  std::vector<ItemResult> results;
  std::vector<NeedleItem> asked;
  int64_t drawn = 0;

  std::vector<NeedleItem> go(const ProbeConfigSection& config, int64_t killed_after = -1) {
    ItemPool pool([this](const std::string& task, int64_t length, int64_t first, int64_t count) {
      std::vector<NeedleItem> items;
      for (int64_t i = first; i < first + count; ++i) items.push_back(item_of(task, length, i));
      drawn += count;
      return items;
    });
    struct Killed {};
    try {
      return measure_until_settled(config, pool, results, [&](const std::vector<NeedleItem>& items) {
        for (const std::string& reading : readings_of(config.reading)) {
          for (const NeedleItem& item : items) {
            const auto same = [&](const ItemResult& r) { return r.id == item.id && r.reading == reading; };
            if (std::any_of(results.begin(), results.end(), same)) continue;
            if (killed_after-- == 0) throw Killed();
            asked.push_back(item);
            results.push_back(row(std::string(needle_task_name(item.task)), item.index, found(item), reading));
          }
        }
      });
    } catch (const Killed&) {
      return {};
    }
  }
};

int64_t count_of(const std::vector<NeedleItem>& items, NeedleTask task) {
  return std::count_if(items.begin(), items.end(), [&](const NeedleItem& item) { return item.task == task; });
}

// Full widths of Wilson's interval at rate 1: 27.8 points of 10, 16.1 of 20. At rate 1/2 of n: 19.2 of 100 and less than 20 from 93 on.
TEST(AutoSamples, EachCellGoesOnUntilItsIntervalIsNarrow) {
  Probe probe;
  const std::vector<NeedleItem> items = probe.go(config_of(20, 500));
  EXPECT_EQ(count_of(items, NeedleTask::kSingle1), 20);
  EXPECT_EQ(count_of(items, NeedleTask::kSingle2), 100);
  EXPECT_EQ(probe.results.size(), 120u);
  EXPECT_EQ(probe.asked.size(), 120u) << "no prompt twice";
  EXPECT_EQ(probe.drawn, 120);
  const Interval at_100 = wilson(50, 100), at_90 = wilson(45, 90);
  EXPECT_LE(at_100.high - at_100.low, .20);
  EXPECT_GT(at_90.high - at_90.low, .20);
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(items[i].index, static_cast<int64_t>(i));  // cell after cell
}

TEST(AutoSamples, TheBudgetEndsIt) {
  Probe probe;
  const std::vector<NeedleItem> items = probe.go(config_of(20, 35));
  EXPECT_EQ(count_of(items, NeedleTask::kSingle1), 20);
  EXPECT_EQ(count_of(items, NeedleTask::kSingle2), 35);
  EXPECT_EQ(Probe().go(config_of(20, 3)).size(), 6u);
  EXPECT_EQ(Probe().go(config_of(100, 500)).size(), 20u) << "one batch at least";
}

// A cell is as narrow as the wider of its two readings.
TEST(AutoSamples, BothReadingsMustBeNarrow) {
  std::vector<ItemResult> rows;
  for (int64_t i = 0; i < 20; ++i) {
    rows.push_back(row("niah_single_1", i, true));
    rows.push_back(row("niah_single_1", i, i % 2 == 0, "teacher_forced"));
  }
  EXPECT_TRUE(cell_needs(config_of(20, 500), rows)[0].settled);
  const CellNeed both = cell_needs(config_of(20, 500, "both"), rows)[0];
  EXPECT_FALSE(both.settled);
  EXPECT_EQ(both.count, 30);
  EXPECT_FALSE(cell_needs(config_of(20, 500, "both"), {rows[0]})[0].settled) << "the other reading is missing";
}

// Killed anywhere, a probe goes on to the prompts of one that was not.
TEST(AutoSamples, AKilledProbeComesToTheSameCounts) {
  const ProbeConfigSection config = config_of(20, 500, "both");
  Probe whole;
  const size_t prompts = whole.go(config).size();
  for (const int64_t killed_after : {0, 1, 7, 19, 20, 33, 61, 100, 211}) {
    Probe probe;
    probe.go(config, killed_after);
    std::shuffle(probe.results.begin(), probe.results.end(), std::mt19937(5));
    EXPECT_EQ(probe.go(config).size(), prompts) << killed_after;
    EXPECT_EQ(probe.results.size(), whole.results.size()) << killed_after;
  }
}

// A look at a prefix must not see what comes after it: rows beyond the count do not settle a cell early.
TEST(AutoSamples, LooksAreRepeatedFromTheFirst) {
  std::vector<ItemResult> rows;
  for (int64_t i = 0; i < 40; ++i) rows.push_back(row("niah_single_1", i, i < 20 || i % 2 == 0));
  const CellNeed need = cell_needs(config_of(20, 500), rows)[0];
  EXPECT_TRUE(need.settled);
  EXPECT_EQ(need.count, 20);
}

TEST(Readings, OfEachSetting) {
  EXPECT_EQ(readings_of("both"), (std::vector<std::string>{"generate", "teacher_forced"}));
  EXPECT_EQ(readings_of("teacher_forced"), std::vector<std::string>{"teacher_forced"});
  EXPECT_EQ(score_reading("both"), "generate");
  EXPECT_EQ(score_reading("teacher_forced"), "teacher_forced");
}

}  // namespace
}  // namespace qkr
