// Tables made by scripts/make_unicode.py; read through unicode.h.
#pragma once

#include <cstdint>

namespace qkr {

// Code points first, first + stride, ... last have themselves + delta as their lower case.
struct LowerRange {
  uint32_t first, last, stride;
  int32_t delta;
};

struct CodeRange {
  uint32_t first, last;
};

extern const LowerRange kLowerRanges[];
extern const int kLowerRangesCount;
extern const CodeRange kCased[];  // letters with case, those that are also ignorable left out
extern const int kCasedCount;
extern const CodeRange kCaseIgnorable[];  // apostrophes, marks: what a final sigma is seen through
extern const int kCaseIgnorableCount;

}  // namespace qkr
