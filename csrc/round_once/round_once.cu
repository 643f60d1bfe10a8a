#include "csrc/core/pack16.cuh"
#include "csrc/core/vec.cuh"
#include "csrc/round_once/launch.h"

namespace qkr {
namespace {

constexpr int kThreads = 256, kPack = 8;

// To odd first (Boldo & Melquiond 2008): towards zero, and the last bit set if anything was lost. fp32 has more than
// two bits to spare over bf16, so the second rounding then sees which side of a tie x was on.
__device__ inline float to_odd(double x) {
  const float towards_zero = __double2float_rz(x);
  const bool lost = static_cast<double>(towards_zero) != x && isfinite(x);
  return float_of(bits_of(towards_zero) | static_cast<uint32_t>(lost));
}

// A thread owns kWidth neighbours; block 0 also the elements after the last whole pack.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) round_once_kernel(const double* x, Bf16* y, int64_t count) {
  const int64_t packs = count / kWidth, pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs) {
    const auto wide = load_pack<kWidth>(x, pack);
    float odd[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) odd[i] = to_odd(wide.item[i]);
    store_floats<kWidth>(y, pack, odd);
  }
  const int64_t tail = packs * kWidth + threadIdx.x;
  if (kWidth > 1 && blockIdx.x == 0 && tail < count) y[tail] = from_float<Bf16>(to_odd(x[tail]));
}

}  // namespace

cudaError_t launch_round_once(const double* x, Bf16* y, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto blocks = [&](int width) { return static_cast<unsigned>((count / width + kThreads) / kThreads); };
  if (is_pack_aligned<kPack>(x) && is_16_byte_aligned(y)) {
    round_once_kernel<kPack><<<blocks(kPack), kThreads, 0, stream>>>(x, y, count);
  } else {
    round_once_kernel<1><<<blocks(1), kThreads, 0, stream>>>(x, y, count);
  }
  return cudaGetLastError();
}

}  // namespace qkr
