// Gated products on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/gates/params.h"

namespace qkr {

template <class T>
cudaError_t launch_gate(const GateParams<T>& p, cudaStream_t stream);

template <class T>
cudaError_t launch_gate_grad(const GateGradParams<T>& p, cudaStream_t stream);

}  // namespace qkr
