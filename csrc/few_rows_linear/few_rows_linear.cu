#include <cuda_bf16.h>

#include "csrc/few_rows_linear/launch.h"

namespace qkr {
namespace {

using Params = FewRowsLinearParams;
constexpr int kWarps = 4, kLanes = 32, kPack = Params::kPack;

// Weights are read once: they should not push x out of L1.
__device__ inline uint4 load_streamed(const Bf16* data) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(data));
  return v;
}

__device__ inline uint4 load_shared_by_all(const Bf16* data) { return __ldg(reinterpret_cast<const uint4*>(data)); }

__device__ inline float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

__device__ inline float dot(const uint4& a, const uint4& b, float sum) {
  const uint32_t u[4] = {a.x, a.y, a.z, a.w}, v[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(low(u[i]), low(v[i]), sum);
    sum = fmaf(high(u[i]), high(v[i]), sum);
  }
  return sum;
}

// The kernel may begin before the one in front of it has ended (launch() allows it). Until this returns it must read nothing that
// could be the other's, and write nothing.
__device__ inline void wait_for_kernel_in_front() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void prefetch_to_l2(const Bf16* data) { asm volatile("prefetch.global.L2 [%0];" ::"l"(data)); }

// A warp owns kOuts neighbouring rows of one weight and all rows of x; its lanes take turns along k, kAhead loads of each row of the
// weight in flight.
template <int kRows, int kOuts, int kAhead>
__global__ void __launch_bounds__(kWarps* kLanes) few_rows_linear_kernel(Params p) {
  int64_t group = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.y, outs = 0;
  const Bf16* weight = nullptr;
  Bf16* y = nullptr;
#pragma unroll
  for (int i = 0; i < Params::kMostWeights; ++i) {  // constant indices: the parameters stay where they are
    const int64_t groups = (p.outs[i] + kOuts - 1) / kOuts;
    if (weight == nullptr && group < groups) weight = p.weights[i], y = p.y[i], outs = p.outs[i];
    if (weight == nullptr) group -= groups;
  }
  if (weight == nullptr) return;
  const int64_t first = group * kOuts;
  const Bf16* w[kOuts];
#pragma unroll
  for (int n = 0; n < kOuts; ++n) w[n] = weight + min(first + n, outs - 1) * p.cols;  // a row too many is not stored
  const int64_t lane = threadIdx.x * kPack, stride = kLanes * kPack;
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
#pragma unroll
    for (int n = 0; n < kOuts; ++n) {
      if (lane + a * stride < p.cols) prefetch_to_l2(w[n] + lane + a * stride);
    }
  }
  wait_for_kernel_in_front();
  const Bf16* x[kRows];
#pragma unroll
  for (int b = 0; b < kRows; ++b) x[b] = p.x + min(b, p.rows - 1) * p.x_stride;
  float sum[kRows][kOuts] = {};
  int64_t k = lane;
  for (; k + (kAhead - 1) * stride < p.cols; k += kAhead * stride) {
    uint4 loaded[kAhead][kOuts];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int n = 0; n < kOuts; ++n) loaded[a][n] = load_streamed(w[n] + k + a * stride);
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int b = 0; b < kRows; ++b) {
        const uint4 of_x = load_shared_by_all(x[b] + k + a * stride);
#pragma unroll
        for (int n = 0; n < kOuts; ++n) sum[b][n] = dot(of_x, loaded[a][n], sum[b][n]);
      }
    }
  }
  for (; k < p.cols; k += stride) {
#pragma unroll
    for (int n = 0; n < kOuts; ++n) {
      const uint4 of_w = load_streamed(w[n] + k);
#pragma unroll
      for (int b = 0; b < kRows; ++b) sum[b][n] = dot(load_shared_by_all(x[b] + k), of_w, sum[b][n]);
    }
  }
#pragma unroll
  for (int b = 0; b < kRows; ++b) {
#pragma unroll
    for (int n = 0; n < kOuts; ++n) {
#pragma unroll
      for (int offset = kLanes / 2; offset > 0; offset /= 2) sum[b][n] += __shfl_xor_sync(0xffffffffu, sum[b][n], offset);
      if (threadIdx.x == 0 && b < p.rows && first + n < outs) {
        y[b * outs + first + n].bits = __bfloat16_as_ushort(__float2bfloat16_rn(sum[b][n]));
      }
    }
  }
}

template <int kRows, int kOuts, int kAhead>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  int64_t groups = 0;
  for (int i = 0; i < Params::kMostWeights; ++i) groups += (p.outs[i] + kOuts - 1) / kOuts;
  if (groups == 0 || p.rows == 0) return cudaSuccess;
  int device = 0, major = 0;
  if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) return error;
  if (const cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device); error != cudaSuccess) return error;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>((groups + kWarps - 1) / kWarps));
  config.blockDim = dim3(kLanes, kWarps);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = major >= 9 ? 1 : 0;
  return cudaLaunchKernelEx(&config, few_rows_linear_kernel<kRows, kOuts, kAhead>, p);
}

}  // namespace

cudaError_t launch_few_rows_linear(const Params& p, cudaStream_t stream) {
  if (p.rows <= 1) return launch<1, 2, 4>(p, stream);
  if (p.rows <= 2) return launch<2, 2, 4>(p, stream);
  return launch<4, 2, 4>(p, stream);
}

}  // namespace qkr
