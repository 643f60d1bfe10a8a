#include <cuda_bf16.h>

#include "csrc/few_rows_linear/launch.h"

namespace qkr {
namespace {

using Params = FewRowsLinearParams;
// A block owns kOuts neighbouring rows of one weight and all rows of x. Its warps share the columns, kAhead loads of each row of the weight
// in flight in each thread, the first of them before the kernel in front has ended. Blocks are short, so that the last ones end at about the
// same time. The order of a sum hangs on the columns alone: a row of x has the same bits beside others.
constexpr int kWarps = 4, kLanes = 32, kPack = Params::kPack, kAhead = 2;
constexpr int64_t kStride = int64_t{kWarps} * kLanes * kPack;

// Weights are read once: they should not push x out of L1.
__device__ inline uint4 load_streamed(const Bf16* data) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(data));
  return v;
}

// What the kernel in front may have written: no read-only load, which may be moved up past the wait for it.
__device__ inline uint4 load_written(const Bf16* data) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(data) : "memory");
  return v;
}

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

// The sums over the lanes of kCount values each, as a tree that halves what a lane still holds: a fraction of the shuffles of one tree a
// value, with the same pairs. Lane l returns the sum of value l / (32 / kCount).
template <int kCount>
__device__ inline float sums_over_lanes(float (&values)[kCount]) {
  int count = kCount;
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) {
    const bool upper = (threadIdx.x & offset) != 0;
    if (count == 1) {
      values[0] += __shfl_xor_sync(0xffffffffu, values[0], offset);
      continue;
    }
    count /= 2;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      if (i >= count) break;
      const float given = upper ? values[i] : values[i + count], kept = upper ? values[i + count] : values[i];
      values[i] = kept + __shfl_xor_sync(0xffffffffu, given, offset);
    }
  }
  return values[0];
}

// The kernel may begin before the one in front of it has ended (launch() allows it). Until this returns it must read nothing that
// could be the other's, and write nothing.
__device__ inline void wait_for_kernel_in_front() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// From here on the kernel behind may begin, if it was launched to, as soon as there is room beside the last blocks of this one.
__device__ inline void let_kernel_behind_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

template <int kRows, int kOuts>
__global__ void __launch_bounds__(kWarps* kLanes) few_rows_linear_kernel(Params p) {
  let_kernel_behind_begin();
  int64_t group = blockIdx.x, outs = 0;
  const Bf16* weight = nullptr;
  Bf16* y = nullptr;
#pragma unroll
  for (int i = 0; i < Params::kMostWeights; ++i) {  // constant indices: the parameters stay where they are
    const int64_t groups = (p.outs[i] + kOuts - 1) / kOuts;
    if (weight == nullptr && group < groups) weight = p.weights[i], y = p.y[i], outs = p.outs[i];
    if (weight == nullptr) group -= groups;
  }
  const int64_t first = group * kOuts, begin = (int64_t{threadIdx.y} * kLanes + threadIdx.x) * kPack;
  const Bf16* w[kOuts];
#pragma unroll
  for (int n = 0; n < kOuts; ++n) w[n] = weight + min(first + n, outs - 1) * p.cols;  // a row too many is not stored
  uint4 loaded[kAhead][kOuts];
  const auto load = [&](int64_t k) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (k + a * kStride >= p.cols) break;
#pragma unroll
      for (int n = 0; n < kOuts; ++n) loaded[a][n] = load_streamed(w[n] + k + a * kStride);
    }
  };
  load(begin);
  wait_for_kernel_in_front();
  const Bf16* x[kRows];
#pragma unroll
  for (int b = 0; b < kRows; ++b) x[b] = p.x + min(b, p.rows - 1) * p.x_stride;
  float sum[kRows * kOuts] = {};
  for (int64_t k = begin; k < p.cols; k += kAhead * kStride, load(k)) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (k + a * kStride >= p.cols) break;
#pragma unroll
      for (int b = 0; b < kRows; ++b) {
        const uint4 of_x = load_written(x[b] + k + a * kStride);
#pragma unroll
        for (int n = 0; n < kOuts; ++n) sum[b * kOuts + n] = dot(of_x, loaded[a][n], sum[b * kOuts + n]);
      }
    }
  }
  constexpr int kSums = kRows * kOuts;
  static_assert(kSums <= kLanes);
  __shared__ float of_warps[kWarps][kSums];
  const float of_lanes = sums_over_lanes(sum);
  if (threadIdx.x % (kLanes / kSums) == 0) of_warps[threadIdx.y][threadIdx.x / (kLanes / kSums)] = of_lanes;
  __syncthreads();
  const int b = threadIdx.x / kOuts, n = threadIdx.x % kOuts;
  if (threadIdx.y > 0 || b >= min(kRows, p.rows) || first + n >= outs) return;
  float total = 0.f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += of_warps[warp][threadIdx.x];
  y[b * outs + first + n].bits = __bfloat16_as_ushort(__float2bfloat16_rn(total));
}

template <int kRows, int kOuts>
cudaError_t launch(const Params& p, cudaStream_t stream) {
  int64_t groups = 0;
  for (int i = 0; i < Params::kMostWeights; ++i) groups += (p.outs[i] + kOuts - 1) / kOuts;
  if (groups == 0 || p.rows == 0) return cudaSuccess;
  const auto kernel = few_rows_linear_kernel<kRows, kOuts>;
  // What it was compiled for, not what it runs on: code for 8.0 that was translated for a newer device does not wait.
  cudaFuncAttributes built = {};
  if (const cudaError_t error = cudaFuncGetAttributes(&built, kernel); error != cudaSuccess) return error;
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(groups));
  config.blockDim = dim3(kLanes, kWarps);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = built.ptxVersion >= 90 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, p);
}

}  // namespace

cudaError_t launch_few_rows_linear(const Params& p, cudaStream_t stream) {
  if (p.rows <= 1) return launch<1, 4>(p, stream);
  if (p.rows <= 2) return launch<2, 4>(p, stream);
  return launch<4, 8>(p, stream);
}

}  // namespace qkr
