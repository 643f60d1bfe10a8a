// Polar factors of small matrices on the device, one block a matrix: no sync, no allocation, on the stream given.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/polar/params.h"

namespace qkr {

// Whether the device has the shared memory for it: 200 KB a block for n = 128 (compute capability 9.0), 114 KB for n = 96.
bool polar_head_serves(int n);

template <class T>
cudaError_t launch_polar_head(const PolarHeadParams<T>& p, cudaStream_t stream);

}  // namespace qkr
