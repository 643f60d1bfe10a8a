// The largest haystack whose prompt fits, in few encodings of a whole prompt.
#pragma once

#include <cstdint>
#include <functional>

namespace qkr {

struct Sizing {
  int64_t budget = 0;  // tokens
  int64_t guess = 0;   // units (words, lines) to try first; 0: begin with one and measure
  std::function<int64_t(int64_t units)>
      whole;  // tokens of the whole input with so many units: exact, dear
  std::function<int64_t(int64_t first, int64_t last)>
      part;  // tokens of units [first, last) alone: near enough, cheap
};

// The n with whole(n) <= budget < whole(n + 1), both measured; 0 if one unit does not fit. With a
// good guess three calls of `whole` do, because `part` says how many units the error is worth.
// Where `whole` is not monotone: one such n.
int64_t largest_that_fits(const Sizing& sizing);

}  // namespace qkr
