#include "trainer/probe/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>
#include <vector>

namespace qkr {
namespace {

double two(double x) { return std::round(x * 100) / 100; }

TEST(Statistics, WilsonTable) {
  struct Row {
    int64_t n;
    double limits[6][2];
  };
  const double rates[] = {0, .1, .5, .67, .9, 1};
  const Row table[] = {{20, {{0, .16}, {.03, .30}, {.30, .70}, {.45, .83}, {.70, .97}, {.84, 1}}},
                       {50, {{0, .07}, {.04, .21}, {.37, .63}, {.53, .78}, {.79, .96}, {.93, 1}}},
                       {100, {{0, .04}, {.06, .17}, {.40, .60}, {.57, .75}, {.83, .94}, {.96, 1}}},
                       {500, {{0, .01}, {.08, .13}, {.46, .54}, {.63, .71}, {.87, .92}, {.99, 1}}}};
  for (const Row& row : table) {
    for (int i = 0; i < 6; ++i) {
      const Interval got = wilson_of_rate(rates[i], row.n);
      EXPECT_EQ(two(got.low), row.limits[i][0]) << row.n << " " << rates[i];
      EXPECT_EQ(two(got.high), row.limits[i][1]) << row.n << " " << rates[i];
    }
  }
  EXPECT_EQ(wilson(22, 25).low, wilson_of_rate(.88, 25).low);
  EXPECT_EQ(wilson(0, 7).low, 0);
  EXPECT_EQ(wilson(7, 7).high, 1);
  EXPECT_EQ(wilson(0, 0).low, 0);
  EXPECT_EQ(wilson(0, 0).high, 1);
}

// Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, the score method without correction.
TEST(Statistics, WilsonAsNewcombeTabulatesIt) {
  struct Row {
    int64_t hits, n;
    double low, high;
  };
  for (const Row& row : {Row{81, 263, .2553, .3662}, Row{15, 148, .0624, .1605}, Row{0, 20, 0, .1611}, Row{1, 29, .0061, .1718}}) {
    EXPECT_NEAR(wilson(row.hits, row.n).low, row.low, 6e-5) << row.hits << "/" << row.n;
    EXPECT_NEAR(wilson(row.hits, row.n).high, row.high, 6e-5) << row.hits << "/" << row.n;
  }
}

// Its limits are where the score test just rejects: |p - limit| = z sqrt(limit (1 - limit) / n).
TEST(Statistics, WilsonIsTheInvertedScoreTest) {
  for (int64_t n = 1; n <= 60; ++n) {
    for (int64_t hits = 0; hits <= n; ++hits) {
      const double rate = static_cast<double>(hits) / static_cast<double>(n);
      for (const double limit : {wilson(hits, n).low, wilson(hits, n).high}) {
        if (limit == rate) continue;  // 0 and 1
        EXPECT_NEAR(std::abs(rate - limit), 1.96 * std::sqrt(limit * (1 - limit) / static_cast<double>(n)), 1e-12) << hits << "/" << n;
      }
    }
  }
}

// Armitage and Berry's two culture media, as statistics programs print it: 0.2 [0.056156, 0.329207], exact p 0.0129.
TEST(Statistics, PairedExampleOfTheTextbook) {
  const Paired media{20, 12, 2, 16};
  EXPECT_NEAR(media.difference(), .2, 1e-12);
  EXPECT_NEAR(newcombe_paired(media).low, .056156, 5e-6);
  EXPECT_NEAR(newcombe_paired(media).high, .329207, 5e-6);
  EXPECT_NEAR(mcnemar_exact(12, 2), .0129, 5e-5);
}

// Kappa by counting: one less the disagreements of the pairs that were made over those of all n x n pairs that could be.
TEST(Statistics, KappaIsTheCountOfAllPairings) {
  for (int64_t both = 0; both <= 4; ++both) {
    for (int64_t first = 0; first <= 3; ++first) {
      for (int64_t second = 0; second <= 3; ++second) {
        for (int64_t neither = 0; neither <= 4; ++neither) {
          std::vector<std::pair<bool, bool>> items(static_cast<size_t>(both), {true, true});
          items.insert(items.end(), static_cast<size_t>(first), {true, false});
          items.insert(items.end(), static_cast<size_t>(second), {false, true});
          items.insert(items.end(), static_cast<size_t>(neither), {false, false});
          double made = 0, possible = 0;
          for (const auto& a : items) {
            made += a.first != a.second ? 1 : 0;
            for (const auto& b : items) possible += a.first != b.second ? 1 : 0;
          }
          if (possible == 0) continue;  // both always say the same one thing
          const double n = static_cast<double>(items.size());
          EXPECT_NEAR(cohen_kappa({both, first, second, neither}), 1 - (made / n) / (possible / n / n), 1e-12);
        }
      }
    }
  }
}

TEST(Statistics, McNemar) {
  const auto three = [](double x) { return std::round(x * 1000) / 1000; };
  EXPECT_NEAR(mcnemar_exact(5, 0), 0.0625, 1e-12);
  EXPECT_NEAR(mcnemar_exact(0, 6), 0.03125, 1e-12);
  EXPECT_EQ(three(mcnemar_exact(8, 1)), .039);
  EXPECT_EQ(three(mcnemar_exact(2, 10)), .039);
  EXPECT_EQ(three(mcnemar_exact(12, 3)), .035);
  EXPECT_EQ(three(mcnemar_exact(15, 5)), .041);
  EXPECT_EQ(mcnemar_exact(0, 0), 1);
  EXPECT_EQ(mcnemar_exact(7, 7), 1);
  EXPECT_NEAR(mcnemar_exact(2000, 2000), 1, 1e-9);  // 2^4000 is no double
  EXPECT_LT(mcnemar_exact(2000, 0), 1e-300);
}

TEST(Statistics, NewcombePaired) {
  const Paired example{25, 10, 2, 13};
  EXPECT_NEAR(example.difference(), .16, 1e-12);
  EXPECT_EQ(two(newcombe_paired(example).low), .02);
  EXPECT_EQ(two(newcombe_paired(example).high), .29);
  EXPECT_EQ(std::round(mcnemar_exact(10, 2) * 1000), 39);
  const Interval mirrored = newcombe_paired({25, 2, 10, 13});
  EXPECT_NEAR(mirrored.low, -newcombe_paired(example).high, 1e-12);
  EXPECT_NEAR(mirrored.high, -newcombe_paired(example).low, 1e-12);
  // One state always right: no correlation to speak of, and still an interval.
  const Interval all = newcombe_paired({10, 10, 0, 0});
  EXPECT_LT(all.low, .5);
  EXPECT_GT(all.high, .5);
  EXPECT_EQ(newcombe_paired({}).low, -1);
  EXPECT_EQ(Paired{}.difference(), 0);
  // Half-widths at .67 against .45 as simulated: .24 (n = 20), .155 (50), .11 (100).
  const Interval fifty = newcombe_paired({20, 14, 3, 13});
  EXPECT_NEAR((fifty.high - fifty.low) / 2, .155, .02);
}

}  // namespace
}  // namespace qkr
