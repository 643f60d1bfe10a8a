// One AdamW step on the device, and masters taken apart and put together: no sync, no allocation, on the stream given.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/adamw/params.h"

namespace qkr {

// Tensors as in one launch each, to the bit, but a launch for every 64.
template <class Master, class Grad>
cudaError_t launch_adamw(const AdamwTensor<Master, Grad>* tensors, int64_t count, const AdamwShared& shared,
                         cudaStream_t stream);

// Note [Split master], both ways; all [count].
cudaError_t launch_split_master(const float* master, const SplitMaster& halves, int64_t count, cudaStream_t stream);
cudaError_t launch_join_master(const SplitMaster& halves, float* master, int64_t count, cudaStream_t stream);

}  // namespace qkr
