// out[d] = sum over r of partials[r, d], rounded once: the second stage of a weight gradient, in a fixed order.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// partials [rows, cols] dense. T: Bf16 or float.
template <class T>
cudaError_t launch_column_sum(const float* partials, int64_t rows, int64_t cols, T* out, cudaStream_t stream);

}  // namespace qkr
