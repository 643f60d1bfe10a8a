// Lightning attention for compute capability 9.0: tensor memory access, wgmma, the state in registers. bf16, head_dim
// 64 or 128. Same contract as launch.h; the other path serves what these do not.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/lightning/params.h"

namespace qkr {

// The device, head_dim, and addresses and strides that the copy engine takes (multiples of 16 bytes).
bool lightning_hopper_serves(const LightningParams<Bf16>& p);
bool lightning_hopper_serves(const LightningGradParams<Bf16>& p);

// Only for what is served.
cudaError_t launch_lightning_hopper(const LightningParams<Bf16>& p, cudaStream_t stream);
cudaError_t launch_lightning_hopper(const LightningGradParams<Bf16>& p, cudaStream_t stream);

}  // namespace qkr
