// Products of few rows on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/few_rows_linear/params.h"

namespace qkr {

cudaError_t launch_few_rows_linear(const FewRowsLinearParams& p, cudaStream_t stream);

}  // namespace qkr
