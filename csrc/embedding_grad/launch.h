// The embedding gradient on the device: no sync, no allocation, on the stream given, deterministic.
#pragma once

#include <cuda_runtime_api.h>

#include "csrc/embedding_grad/params.h"

namespace qkr {

template <class T>
cudaError_t launch_embedding_grad(const EmbeddingGradParams<T>& p, cudaStream_t stream);

}  // namespace qkr
