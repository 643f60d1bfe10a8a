// out[d] = sum over r of partials[r, d], rounded once: the second stage of a weight gradient, in a fixed order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// T: Bf16 or float.
template <class T>
struct ColumnSum {
  const float* partials = nullptr;  // [rows, cols] dense
  int64_t rows = 0;
  T* out = nullptr;  // [cols]
};

// Both in one launch; a second one without `out` is none.
template <class T>
cudaError_t launch_column_sums(const ColumnSum<T>& first, const ColumnSum<T>& second, int64_t cols,
                               cudaStream_t stream);

}  // namespace qkr
