// QK-norm and RoPE on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/qk_norm_rope/params.h"

namespace qkr {

constexpr int kQkNormRopeMaxHeadDim = 256;  // and head_dim must be even
constexpr int64_t kQkNormRopeMaxRows = int64_t{1}
                                       << 30;  // N H: divided by H in 32 bits, which takes a third of the time of 64

template <class T>
cudaError_t launch_qk_norm_rope(const QkNormRopeParams<T>& p, cudaStream_t stream);

// Rows of `partials` for that many rows of D; the same on every device.
int64_t qk_norm_rope_partials(int64_t rows);

template <class T>
cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<T>& p, cudaStream_t stream);

}  // namespace qkr
