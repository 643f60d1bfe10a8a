// Causal softmax attention over packed rows and over a cache, by ATen's kernels: variable-length flash attention where the
// device and the dtype allow it, scaled_dot_product_attention segment by segment elsewhere.
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/cache.h"
#include "trainer/model/segments.h"

namespace qkr {

// q [N, H, D], k and v [N, KV, D] → [N, H, D]; query head h reads KV head h / (H / KV). A query sees the tokens of its own
// segment up to itself, and of those the last `window` if window > 0. Differentiable.
at::Tensor attend_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Segments& segments,
                         int64_t window);

// The same for T new tokens of one sequence: k and v [T, KV, D] are appended to the cache, q [T, H, D] reads all of it.
// Not differentiable. `past` is the number of tokens in the cache before, `capacity` the rows to allocate at first.
at::Tensor attend_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, LayerCache& cache, int64_t past,
                         int64_t capacity, int64_t window);

// Whether flash attention over variable lengths and caches serves this device and dtype.
bool flash_serves(at::Device device, at::ScalarType dtype, int64_t head_dim);

// What serves packed softmax attention on this device, for the start-up lines.
const char* softmax_kernel_name(at::Device device, at::ScalarType dtype, int64_t head_dim);

}  // namespace qkr
