// What is drawn for an item: a function of (seed, task, length, index) alone.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/probe/prompt.h"

namespace qkr {

// What chance decides about an item. Keys and values have RULER's distributions. Places go through
// the 40 depths (among lines: 40 strips of them) in a drawn order, so that few samples still cover
// the whole length; where there are several needles, this is the place of the first one asked for.
struct NeedleDraw {
  std::string key, value;
  double depth = 0;            // in a text: one of RULER's 40 points
  double fraction = 0;         // among lines: insert_line = int(fraction * num_haystack)
  std::vector<Needle> others;  // further needles: keys not asked for, or answers after the first
  VariableChain chain, example;    // vt: names and values
  std::vector<double> chain_at;    // vt: kChainLength shares of the lines, ascending
  std::vector<double> example_at;  // the same for the example
};
NeedleDraw draw_needle(int64_t seed, NeedleTask task, int64_t length, int64_t index);

// multikey_2 and 3: line `line` of an item's haystack. Its key is never the one asked for.
Needle draw_distractor(int64_t seed, NeedleTask task, int64_t length, int64_t index, int64_t line,
                       const std::string& asked);

// RULER's depths: 0 3 5 8 10 13 ... 97 100.
const std::vector<int>& depth_points();

}  // namespace qkr
