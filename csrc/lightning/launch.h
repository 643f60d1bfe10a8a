// Lightning attention on the device: no sync, no allocation, on the stream given, deterministic. head_dim 64 or 128.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/lightning/params.h"

namespace qkr {

// Picks the kernel by the device: wgmma and TMA on compute capability 9.0, mma.sync from 8.0 on.
template <class T>
cudaError_t launch_lightning(const LightningParams<T>& p, cudaStream_t stream);

template <class T>
cudaError_t launch_lightning_grad(const LightningGradParams<T>& p, cudaStream_t stream);

template <class T>
cudaError_t launch_lightning_step(const LightningStepParams<T>& p, cudaStream_t stream);

}  // namespace qkr
