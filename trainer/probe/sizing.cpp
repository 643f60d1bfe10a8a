#include "trainer/probe/sizing.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace qkr {
namespace {

constexpr int64_t kUnknown = std::numeric_limits<int64_t>::max();
constexpr int64_t kSampleUnits = 400;  // to learn tokens per unit from
constexpr int64_t kNearUnits =
    1500;  // up to here `part` is asked; farther away the rate alone is good enough for a next step
constexpr int kPatience = 10;  // measurements before plain bisection takes over

// How many units fit according to a measurement of `tokens` at `units`: the largest step whose
// `part` still fits.
int64_t predict(const Sizing& sizing, int64_t units, int64_t tokens) {
  const int64_t gap = sizing.budget - tokens;
  const double rate = units >= kSampleUnits
                          ? static_cast<double>(tokens) / static_cast<double>(units)
                          : static_cast<double>(sizing.part(0, kSampleUnits)) / kSampleUnits;
  const double jump = static_cast<double>(gap) / std::max(rate, 1e-3);
  if (std::abs(jump) > kNearUnits) return units + static_cast<int64_t>(jump);
  // Bisection on the number of units to add (or to take away) near here.
  int64_t fits = 0, breaks = 2 * static_cast<int64_t>(std::abs(jump)) + 8;
  if (gap < 0) {  // smallest number to take away that is worth -gap tokens
    while (breaks - fits > 1) {
      const int64_t middle = fits + (breaks - fits) / 2;
      (middle < units && sizing.part(units - middle, units) < -gap ? fits : breaks) = middle;
    }
    return units - breaks;
  }
  while (breaks - fits > 1) {
    const int64_t middle = fits + (breaks - fits) / 2;
    (sizing.part(units, units + middle) <= gap ? fits : breaks) = middle;
  }
  return units + fits;
}

}  // namespace

int64_t largest_that_fits(const Sizing& sizing) {
  int64_t fits = 0, breaks = kUnknown;
  int64_t units = std::max<int64_t>(1, sizing.guess);
  for (int measured = 1; breaks - fits > 1; ++measured) {
    const int64_t tokens = sizing.whole(units);
    (tokens <= sizing.budget ? fits : breaks) = units;
    if (breaks - fits <= 1) break;
    if (measured < kPatience) {
      units = predict(sizing, units, tokens);
    } else {
      units = breaks == kUnknown ? 2 * fits : fits + (breaks - fits) / 2;
    }
    units = std::clamp(units, fits + 1, breaks == kUnknown ? kUnknown : breaks - 1);
  }
  return fits;
}

}  // namespace qkr
