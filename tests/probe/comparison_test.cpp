#include "trainer/probe/comparison.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tmpdir.h"
#include "trainer/probe/generator.h"
#include "trainer/probe/random.h"

namespace qkr {
namespace {

// Every outcome of n fair coins: how likely is one as lopsided as this?
double by_enumeration(int only_first, int only_second) {
  const int n = only_first + only_second, seen = std::abs(only_first - only_second);
  int as_far = 0;
  for (int outcome = 0; outcome < 1 << n; ++outcome) {
    const int heads = __builtin_popcount(static_cast<unsigned>(outcome));
    as_far += std::abs(2 * heads - n) >= seen ? 1 : 0;
  }
  return static_cast<double>(as_far) / (1 << n);
}

TEST(Comparison, McNemarIsTheCountOfAllOutcomes) {
  for (int first = 0; first <= 8; ++first) {
    for (int second = 0; second <= 8; ++second)
      EXPECT_NEAR(mcnemar_exact(first, second), by_enumeration(first, second), 1e-12) << first << " " << second;
  }
}

TEST(Comparison, OneStratumIsNewcombes) {
  const Paired cell{25, 10, 2, 13};
  const Stratified one = stratified({cell});
  EXPECT_NEAR(one.difference, .16, 1e-12);
  EXPECT_NEAR(one.interval.low, newcombe_paired(cell).low, 1e-12);
  EXPECT_NEAR(one.interval.high, newcombe_paired(cell).high, 1e-12);
  EXPECT_EQ(one.p, mcnemar_exact(10, 2));
  // Four equal cells: half the reach. An empty cell changes nothing.
  const Stratified four = stratified({cell, cell, {}, cell, cell});
  EXPECT_NEAR(four.difference - four.interval.low, (.16 - one.interval.low) / 2, 1e-12);
  EXPECT_NEAR(four.interval.high - four.difference, (one.interval.high - .16) / 2, 1e-12);
  EXPECT_EQ(four.p, mcnemar_exact(40, 8));
  // Cells of unlike size count by their items.
  EXPECT_NEAR(stratified({{1, 1, 0, 0}, {6, 0, 0, 0}}).difference, 1.0 / 8, 1e-12);
  EXPECT_EQ(stratified({}).interval.low, -1);
}

// Cells from all found to nothing found: the interval holds the truth in about 95 of 100 draws.
TEST(Comparison, StratifiedIntervalCoversTheTruth) {
  const double share[4][4] = {  // both, only first, only second, neither
      {.95, .03, .02, 0}, {.6, .2, .05, .15}, {.3, .3, .05, .35}, {.02, .02, .04, .92}};
  double truth = 0;
  for (const auto& cell : share) truth += (cell[1] - cell[2]) / 4;
  SplitMix64 random({7});
  int covered = 0;
  constexpr int kDraws = 4000;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<Paired> cells(4);
    for (size_t c = 0; c < 4; ++c) {
      for (int i = 0; i < 25; ++i) {
        const double u = random.unit();
        Paired& counts = cells[c];
        ++(u < share[c][0] ? counts.both
                           : u < share[c][0] + share[c][1] ? counts.only_first
                                                           : u < share[c][0] + share[c][1] + share[c][2] ? counts.only_second : counts.neither);
      }
    }
    const Interval got = stratified(cells).interval;
    covered += got.low <= truth && truth <= got.high ? 1 : 0;
  }
  EXPECT_GT(covered, .94 * kDraws);
  EXPECT_LT(covered, .995 * kDraws);
}

TEST(Comparison, KappaTabulated) {
  EXPECT_NEAR(cohen_kappa({20, 5, 10, 15}), .4, 1e-12);    // the textbook's example
  EXPECT_NEAR(cohen_kappa({45, 15, 25, 15}), .1304, 1e-4);  // the same agreement, other margins
  EXPECT_NEAR(cohen_kappa({25, 35, 5, 35}), .2593, 1e-4);
  EXPECT_EQ(cohen_kappa({7, 0, 0, 3}), 1);
  EXPECT_EQ(cohen_kappa({7, 0, 0, 0}), 1);
  EXPECT_NEAR(cohen_kappa({0, 5, 5, 0}), -1, 1e-12);
}

NamedResults results_of(const std::string& name, const std::string& hits, int64_t length = 4096) {
  NamedResults results{name, {}};
  for (size_t i = 0; i < hits.size(); ++i) {
    ItemResult r;
    r.stage = "probe";
    r.task = "niah_single_2";
    r.length = length;
    r.index = static_cast<int64_t>(i);
    r.id = "niah_single_2/" + std::to_string(length) + "/" + std::to_string(i) + "#00ff00ff";
    r.hit = hits[i] == '1';
    r.haystack_sha256 = "abc";
    r.tokenizer = "tok";
    r.model = name;
    r.mode = "base";
    r.max_new_tokens = 128;
    results.results.push_back(r);
  }
  return results;
}

TEST(Comparison, TableOfTwoFiles) {
  NamedResults a = results_of("a.jsonl", "1110000000"), b = results_of("b.jsonl", "11111111");
  const NamedResults a2 = results_of("a.jsonl", "1111", 8192), b2 = results_of("b.jsonl", "1110", 8192);
  a.results.insert(a.results.end(), a2.results.begin(), a2.results.end());
  b.results.insert(b.results.begin(), b2.results.begin(), b2.results.end());  // in another order
  EXPECT_EQ(comparison_table(a, b),
            "first:  a.jsonl\n"
            "second: b.jsonl\n"
            "\n"
            "task           length  first   second  second - first\n"
            "niah_single_2    4096  37.5%   100.0%  +62.5 points    [+17.0, +86.3]  n=8 paired   p=0.062\n"
            "niah_single_2    8192  100.0%  75.0%   -25.0 points    [-69.9, +28.1]  n=4 paired   p=1.000\n"
            "all cells              58.3%   91.7%   +33.3 points    [-0.5, +57.1]   n=12 paired  p=0.219\n"
            "not counted, as the other has no such prompt: 2 of the first, 0 of the second\n");
}

TEST(Comparison, WhatDiffersIsNamed) {
  const NamedResults a = results_of("a", "11");
  const auto message = [&](auto&& change) {
    NamedResults b = results_of("b", "11");
    change(b.results[1]);
    return QKR_MESSAGE_OF(compare_results(a, b));
  };
  EXPECT_EQ(message([](ItemResult& r) { r.haystack_sha256 = "def"; }),
            "b: niah_single_2/4096/1: haystack must be that of a, abc, got def");
  EXPECT_EQ(message([](ItemResult& r) { r.tokenizer = "other"; }), "b: niah_single_2/4096/1: tokenizer must be that of a, tok, got other");
  EXPECT_EQ(message([](ItemResult& r) { r.mode = "chat"; }), "b: niah_single_2/4096/1: mode must be that of a, base, got chat");
  EXPECT_EQ(message([](ItemResult& r) { r.max_new_tokens = 64; }), "b: niah_single_2/4096/1: max_new_tokens must be that of a, 128, got 64");
  EXPECT_EQ(message([](ItemResult& r) { r.id.back() = '0'; }),
            "b: niah_single_2/4096/1: prompt must be that of a, niah_single_2/4096/1#00ff00ff, got niah_single_2/4096/1#00ff00f0");
  EXPECT_EQ(message([](ItemResult& r) { r.stage = "end"; }), "b: must hold one stage, got probe and end");
  EXPECT_EQ(message([](ItemResult& r) { r.model = "another", r.tokenizer = ""; }), "");  // the model may, and an old row is silent
  EXPECT_EQ(QKR_MESSAGE_OF(compare_results(a, results_of("b", "11", 8192))), "b: must share a prompt with a, got none");
}

TEST(Comparison, RefusesInOneLineWhateverTheRowsHold) {
  const NamedResults a = results_of("a", "11");
  NamedResults b = results_of("b", "11");
  b.results[1].haystack_sha256 = "x\ny";
  EXPECT_EQ(QKR_MESSAGE_OF(compare_results(a, b)), "b: niah_single_2/4096/1: haystack must be that of a, abc, got 'x\\ny'");
  b = results_of("b", "11");
  b.results[1].stage = std::string(500, 's');
  EXPECT_EQ(QKR_MESSAGE_OF(compare_results(a, b)), "b: must hold one stage, got " + b.results[0].stage + " and '" + std::string(80, 's') + "…'");
}

TEST(Resume, SkipsWhatIsDoneAndRefusesWhatWasMadeOtherwise) {
  std::vector<NeedleItem> items(3);
  for (size_t i = 0; i < items.size(); ++i) {
    items[i].task = NeedleTask::kSingle2;
    items[i].length = 4096;
    items[i].index = static_cast<int64_t>(i);
    items[i].id = "niah_single_2/4096/" + std::to_string(i) + "#00ff00ff";
    items[i].haystack_sha256 = "abc";
  }
  ProbeOptions options;
  options.tokenizer = "tok";
  options.model = "m";
  NamedResults done = results_of("m", "11");
  done.results.push_back(results_of("m", "1", 512).results[0]);  // another cell's: stays where it is
  const std::vector<NeedleItem> left = items_left(items, done.results, options, "p.jsonl");
  ASSERT_EQ(left.size(), 1u);
  EXPECT_EQ(left[0].index, 2);
  EXPECT_EQ(items_left(items, {}, options, "p.jsonl").size(), 3u);
  const auto message = [&](auto&& change) {
    std::vector<ItemResult> rows = results_of("m", "11").results;
    change(rows[1]);
    return QKR_MESSAGE_OF(items_left(items, rows, options, "p.jsonl"));
  };
  EXPECT_EQ(message([](ItemResult& r) { r.model = "n"; }), "p.jsonl: niah_single_2/4096/1: model must be this probe's, m, got n");
  EXPECT_EQ(message([](ItemResult& r) { r.tokenizer = "n"; }), "p.jsonl: niah_single_2/4096/1: tokenizer must be this probe's, tok, got n");
  EXPECT_EQ(message([](ItemResult& r) { r.haystack_sha256 = "n"; }), "p.jsonl: niah_single_2/4096/1: haystack must be this probe's, abc, got n");
  EXPECT_NE(message([](ItemResult& r) { r.id.back() = '0'; }).find("prompt must be this probe's"), std::string::npos);
}

TEST(WeightsDigest, TellsAnyChange) {
  NamedTensors weights;
  weights.set("a", at::arange(12, at::kFloat).reshape({3, 4}).to(at::kBFloat16));
  weights.set("b", at::ones({5}));
  const std::string base = weights_digest(weights, "x");
  EXPECT_EQ(base.size(), 16u);
  EXPECT_EQ(base, weights_digest(weights, "x"));
  EXPECT_NE(base, weights_digest(weights, "y"));
  weights.at("a")[2][3].add_(0.0625);  // a step of bf16 at 11
  EXPECT_NE(base, weights_digest(weights, "x"));
  weights.at("a")[2][3].sub_(0.0625);
  EXPECT_EQ(base, weights_digest(weights, "x"));
  const at::Tensor rows = weights.at("a").index_select(0, at::tensor({1, 0, 2}, at::kLong));
  weights.at("a").copy_(rows);
  EXPECT_NE(base, weights_digest(weights, "x"));
}

}  // namespace
}  // namespace qkr
