// One AdamW step on the device: no sync, no allocation, on the stream given.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/adamw/params.h"

namespace qkr {

template <class Master, class Grad>
cudaError_t launch_adamw(const AdamwParams<Master, Grad>& p, cudaStream_t stream);

}  // namespace qkr
