// QK-norm and RoPE on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/qk_norm_rope/params.h"

namespace qkr {

constexpr int kQkNormRopeMaxHeadDim = 256;            // and head_dim must be even
constexpr int64_t kQkNormRopeMaxRows = int64_t{1} << 30;  // N H: divided by H in 32 bits, a third of the time of 64

// Two tensors of equal head_dim, both with a norm or both without, in one launch: queries and keys. A second one of no
// tokens is none.
template <class T>
cudaError_t launch_qk_norm_rope(const QkNormRopeParams<T>& first, const QkNormRopeParams<T>& second,
                                cudaStream_t stream);

// Rows of `partials` for that many rows of D in each tensor; the same on every device.
struct QkNormRopePartials {
  int64_t first = 0, second = 0;
};
QkNormRopePartials qk_norm_rope_partials(int64_t first_rows, int64_t second_rows);

template <class T>
cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<T>& first, const QkNormRopeGradParams<T>& second,
                                     cudaStream_t stream);

}  // namespace qkr
