// y = x rounded to bf16 once, to nearest even: a conversion by way of fp32 rounds twice and is wrong by a bit where x
// is next to the middle between two bf16. No sync, no allocation, on the stream given.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

cudaError_t launch_round_once(const double* x, Bf16* y, int64_t count, cudaStream_t stream);  // both [count]

}  // namespace qkr
