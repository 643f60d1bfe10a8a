// How sure a rate is, and a difference of two rates over the same items.
#pragma once

#include <cstdint>
#include <vector>

namespace qkr {

struct Interval {
  double low = 0, high = 1;
};

// The 95 % interval of Wilson (1927) for hits / n, as shares. Never hits/n +- z se, which is empty
// at 0 and at 1. n = 0: [0, 1].
Interval wilson(int64_t hits, int64_t n);
Interval wilson_of_rate(double rate,
                        int64_t n);  // the same for a rate that need not be a whole number of hits

// Two measurements of the same items.
struct Paired {
  int64_t both = 0, only_first = 0, only_second = 0, neither = 0;
  int64_t n() const { return both + only_first + only_second + neither; }
  double difference() const;  // rate of the first - rate of the second; 0 if there are no items
};

// Exact McNemar test, two-sided: min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c)), b and c
// the items that one alone hit.
double mcnemar_exact(int64_t only_first, int64_t only_second);

// The 95 % interval of `difference()`: Newcombe (1998), paired, method 10. No items: [-1, 1].
Interval newcombe_paired(const Paired& counts);

// One difference over several cells, each paired in itself.
struct Stratified {
  Paired pooled;          // the cells' counts added up
  double difference = 0;  // mean of the cells' differences, weighted by their items
  Interval interval = {-1, 1};  // of it, 95 %
  double p = 1;           // exact McNemar on the pooled counts: without a difference each discordant item is a fair coin in every cell
};

// The interval comes from the cells' own (newcombe_paired) by Zou and Donner's recovery of variances (2008):
// difference -+ sqrt(sum (w_c reach_c)^2), so that cells of different rates are not treated as one.
Stratified stratified(const std::vector<Paired>& cells);

// Agreement of two verdicts on the same items beyond chance: Cohen's kappa, 1 complete, 0 chance. Where chance alone
// agrees completely (both always say the same one thing) it is 1.
double cohen_kappa(const Paired& counts);

}  // namespace qkr
