// RMSNorm on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/rms_norm/params.h"

namespace qkr {

// Whether a row fits into a block's registers: up to 16 KB in whole 16-byte packs, or 4096 elements of any size and
// alignment.
template <class T>
bool rms_norm_serves(const RmsNormParams<T>& p);
template <class T>
bool rms_norm_serves(const RmsNormGradParams<T>& p);

template <class T>
cudaError_t launch_rms_norm(const RmsNormParams<T>& p, cudaStream_t stream);

// Rows of `partials`; the same on every device.
int64_t rms_norm_partials(int64_t rows, int64_t cols);

template <class T>
cudaError_t launch_rms_norm_grad(const RmsNormGradParams<T>& p, cudaStream_t stream);

}  // namespace qkr
