// Rows read and written 16 bytes a thread at a time, as fp32 in registers; and the rounding to the type in memory.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// x to the nearest T, ties to even, and back.
template <class T>
__device__ inline float rounded(float x);
template <>
__device__ inline float rounded<float>(float x) {
  return x;
}
template <>
__device__ inline float rounded<Bf16>(float x) {
  return __bfloat162float(__float2bfloat16_rn(x));
}

// Two at once: a conversion makes two bf16 in one instruction.
template <class T>
__device__ inline void round_both(float& a, float& b);
template <>
__device__ inline void round_both<float>(float&, float&) {}
template <>
__device__ inline void round_both<Bf16>(float& a, float& b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(&pair);
  a = __uint_as_float(bits << 16);
  b = __uint_as_float(bits & 0xffff0000u);
}

template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 from_float<Bf16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}

// kPack neighbours as they lie in memory: a whole 16 bytes, or one element where nothing is known of the alignment.
template <class T, int kPack>
struct RawPack;

template <>
struct RawPack<float, 4> {
  float4 raw;
  __device__ void unpack(float (&x)[4]) const { x[0] = raw.x, x[1] = raw.y, x[2] = raw.z, x[3] = raw.w; }
  __device__ static RawPack of(const float (&x)[4]) { return {make_float4(x[0], x[1], x[2], x[3])}; }
};

template <>
struct RawPack<Bf16, 8> {
  uint4 raw;
  __device__ void unpack(float (&x)[8]) const {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(words[i] << 16);
      x[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
  __device__ static RawPack of(const float (&x)[8]) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __nv_bfloat162 pair = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
      words[i] = *reinterpret_cast<const uint32_t*>(&pair);
    }
    return {make_uint4(words[0], words[1], words[2], words[3])};
  }
};

template <class T>
struct RawPack<T, 1> {
  T raw;
  __device__ void unpack(float (&x)[1]) const { x[0] = to_float(raw); }
  __device__ static RawPack of(const float (&x)[1]) { return {from_float<T>(x[0])}; }
};

template <class T>
constexpr int kPack16 = 16 / static_cast<int>(sizeof(T));

// The pack-th pack after `data`.
template <int kPack, class T>
__device__ inline RawPack<T, kPack> load_raw(const T* data, int64_t pack) {
  return {reinterpret_cast<const decltype(RawPack<T, kPack>::raw)*>(data)[pack]};
}

template <int kPack, class T>
__device__ inline void load_floats(const T* data, int64_t pack, float (&x)[kPack]) {
  load_raw<kPack>(data, pack).unpack(x);
}

template <int kPack, class T>
__device__ inline void store_floats(T* data, int64_t pack, const float (&x)[kPack]) {
  reinterpret_cast<decltype(RawPack<T, kPack>::raw)*>(data)[pack] = RawPack<T, kPack>::of(x).raw;
}

// For choosing a kernel: every address that is a multiple of `stride` elements after `data` can be read 16 bytes at a
// time.
template <class T>
inline bool is_16_byte_aligned(const T* data, int64_t stride = 0) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % kPack16<T> == 0;
}

}  // namespace qkr
