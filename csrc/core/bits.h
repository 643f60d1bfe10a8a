// bfloat16 as bits, and fp32 <-> bits, the same on both sides of the bus.
#pragma once

#include <cstdint>
#include <cstring>

#include "csrc/core/host_device.h"

namespace qkr {

struct Bf16 {
  uint16_t bits;
};

QKR_HOST_DEVICE inline uint32_t bits_of(float x) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(x);
#else
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
#endif
}

QKR_HOST_DEVICE inline float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
#endif
}

// Exact.
QKR_HOST_DEVICE inline float to_float(float x) { return x; }
QKR_HOST_DEVICE inline float to_float(Bf16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

}  // namespace qkr
