#include "trainer/probe/statistics.h"

#include <algorithm>
#include <cmath>

namespace qkr {
namespace {

constexpr double kZ = 1.96;

// Correlation of the two measurements with Newcombe's continuity correction; 0 where a margin is
// empty.
double corrected_phi(const Paired& counts) {
  const double a = static_cast<double>(counts.both), b = static_cast<double>(counts.only_first);
  const double c = static_cast<double>(counts.only_second), d = static_cast<double>(counts.neither);
  const double margins = (a + b) * (c + d) * (a + c) * (b + d);
  if (margins == 0) return 0;
  const double half = static_cast<double>(counts.n()) / 2;
  double determinant = a * d - b * c;
  if (determinant > half) {
    determinant -= half;
  } else if (determinant > 0) {
    determinant = 0;
  }
  return determinant / std::sqrt(margins);
}

}  // namespace

Interval wilson_of_rate(double rate, int64_t n) {
  if (n == 0) return {0, 1};
  const double count = static_cast<double>(n), z2 = kZ * kZ;
  const double centre = (rate + z2 / (2 * count)) / (1 + z2 / count);
  const double half =
      kZ * std::sqrt(rate * (1 - rate) / count + z2 / (4 * count * count)) / (1 + z2 / count);
  // At rates 0 and 1 the limit is 0 and 1 exactly; rounding would leave 1e-17.
  return {rate == 0 ? 0 : std::max(0.0, centre - half),
          rate == 1 ? 1 : std::min(1.0, centre + half)};
}

Interval wilson(int64_t hits, int64_t n) {
  return n == 0 ? Interval{0, 1}
                : wilson_of_rate(static_cast<double>(hits) / static_cast<double>(n), n);
}

double Paired::difference() const {
  return n() == 0 ? 0 : static_cast<double>(only_first - only_second) / static_cast<double>(n());
}

double mcnemar_exact(int64_t only_first, int64_t only_second) {
  const int64_t discordant = only_first + only_second, fewer = std::min(only_first, only_second);
  const double n = static_cast<double>(discordant);
  double tail = 0;
  for (int64_t i = 0; i <= fewer; ++i) {
    const double k = static_cast<double>(i);  // in logarithms: 2^n overflows at 1,024 items
    tail += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) -
                     n * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

Interval newcombe_paired(const Paired& counts) {
  const int64_t n = counts.n();
  if (n == 0) return {-1, 1};
  const double p1 = static_cast<double>(counts.both + counts.only_first) / static_cast<double>(n);
  const double p2 = static_cast<double>(counts.both + counts.only_second) / static_cast<double>(n);
  const Interval w1 = wilson(counts.both + counts.only_first, n),
                 w2 = wilson(counts.both + counts.only_second, n);
  const double phi = corrected_phi(counts);
  const auto reach = [phi](double x, double y) {
    return std::sqrt(std::max(0.0, x * x - 2 * phi * x * y + y * y));
  };
  return {p1 - p2 - reach(p1 - w1.low, w2.high - p2), p1 - p2 + reach(w1.high - p1, p2 - w2.low)};
}

Stratified stratified(const std::vector<Paired>& cells) {
  Stratified all;
  for (const Paired& cell : cells) {
    all.pooled.both += cell.both;
    all.pooled.only_first += cell.only_first;
    all.pooled.only_second += cell.only_second;
    all.pooled.neither += cell.neither;
  }
  if (all.pooled.n() == 0) return all;
  all.difference = all.pooled.difference();
  double below = 0, above = 0;
  for (const Paired& cell : cells) {
    const double weight = static_cast<double>(cell.n()) / static_cast<double>(all.pooled.n());
    const Interval interval = newcombe_paired(cell);
    below += std::pow(weight * (cell.difference() - interval.low), 2);
    above += std::pow(weight * (interval.high - cell.difference()), 2);
  }
  all.interval = {all.difference - std::sqrt(below), all.difference + std::sqrt(above)};
  all.p = mcnemar_exact(all.pooled.only_first, all.pooled.only_second);
  return all;
}

double cohen_kappa(const Paired& counts) {
  const double n = static_cast<double>(counts.n());
  if (n == 0) return 1;
  const double first = static_cast<double>(counts.both + counts.only_first) / n;
  const double second = static_cast<double>(counts.both + counts.only_second) / n;
  const double agreed = static_cast<double>(counts.both + counts.neither) / n;
  const double chance = first * second + (1 - first) * (1 - second);
  return chance == 1 ? 1 : (agreed - chance) / (1 - chance);
}

}  // namespace qkr
