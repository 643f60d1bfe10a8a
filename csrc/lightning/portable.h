// The kernel of launch.h for compute capability 8.0 and newer: mma.sync and cp.async.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/lightning/pass.h"

namespace qkr {

template <class T>  // Bf16 or float
cudaError_t launch_lightning_portable(const LightningPass<T>& p, cudaStream_t stream);

}  // namespace qkr
