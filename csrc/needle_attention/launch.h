// Attention mass on the device: no sync, no allocation, on the stream given, deterministic. Keys are split over blocks;
// the shares are combined in a fixed order by a second kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/needle_attention/params.h"

namespace qkr {

constexpr int64_t kNeedleAttentionMaxDim = 1024;

// Floats of room that a launch needs; the same on every device.
template <class T>
int64_t needle_attention_room(const NeedleAttentionParams<T>& p);

// `room`: that many floats. bf16 heads of 64 and 128 elements whose rows begin at 16-byte steps go through the tensor
// cores, K read once for up to 64 rows (queries times heads of a KV head); all else takes 8 or 16 rows at a time.
template <class T>
cudaError_t launch_needle_attention(const NeedleAttentionParams<T>& p, float* room, cudaStream_t stream);

}  // namespace qkr
