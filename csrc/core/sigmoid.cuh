// 1 / (1 + e^-x), to a few ulp of fp32; for bf16, whose rounding hides 2^-8, by the fast instructions: with exact
// ones a gate would wait for arithmetic instead of memory.
#pragma once

#include "csrc/core/bits.h"

namespace qkr {

template <class T>
__device__ inline float sigmoid(float x);
template <>
__device__ inline float sigmoid<float>(float x) {
  return 1.f / (1.f + expf(-x));
}
template <>
__device__ inline float sigmoid<Bf16>(float x) {
  return __fdividef(1.f, 1.f + __expf(-x));
}

}  // namespace qkr
