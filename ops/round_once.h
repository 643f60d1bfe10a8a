// The last rounding of what was computed in fp64.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

// x [...] fp64 to `dtype` by one rounding to nearest even, dense. Tensor::to goes through fp32 on the way to bf16 and fp16,
// which rounds twice. A CUDA kernel for bf16; else through ATen.
at::Tensor round_once(const at::Tensor& x, at::ScalarType dtype);

at::Tensor round_once_meta(const at::Tensor& x, at::ScalarType dtype);
at::Tensor round_once_composite(const at::Tensor& x, at::ScalarType dtype);

}  // namespace qkr
