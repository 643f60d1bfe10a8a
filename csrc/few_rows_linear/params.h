// y_i[b, n] = sum over k of x[b, k] w_i[n, k], for a few rows x and up to four weights that read the same x: a decode step's projections.
// fp32 sums, rounded once. What it costs is reading the weights.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

struct FewRowsLinearParams {
  static constexpr int kMostRows = 4, kMostWeights = 4, kPack = 8;  // kPack: elements of one load
  const Bf16* x = nullptr;                  // [rows, cols], row b at x + b * x_stride; 16-byte aligned, x_stride a multiple of kPack
  const Bf16* weights[kMostWeights] = {};   // [outs[i], cols], dense, 16-byte aligned
  Bf16* y[kMostWeights] = {};               // [rows, outs[i]], dense
  int64_t outs[kMostWeights] = {};          // 0: no such weight
  int rows = 0;                             // 1 .. kMostRows
  int64_t cols = 0, x_stride = 0;           // cols a multiple of kPack
};

}  // namespace qkr
