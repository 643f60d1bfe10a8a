#include "csrc/column_sum/launch.h"
#include "csrc/core/pack16.cuh"
#include "csrc/core/reduce.cuh"

namespace qkr {
namespace {

constexpr int kRowsAtOnce = 16;

// A block owns 32 columns. Warp w adds the rows w, w + 16, ...; then the warps' sums are added in order.
template <class T>
__global__ void column_sum_kernel(const float* partials, int64_t rows, int64_t cols, T* out) {
  __shared__ float sums[kRowsAtOnce][kWarp];
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x;
  float sum = 0.f;
  if (col < cols) {
#pragma unroll 4
    for (int64_t row = threadIdx.y; row < rows; row += kRowsAtOnce) sum += partials[row * cols + col];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || col >= cols) return;
#pragma unroll
  for (int w = 1; w < kRowsAtOnce; ++w) sum += sums[w][threadIdx.x];
  out[col] = from_float<T>(sum);
}

}  // namespace

template <class T>
cudaError_t launch_column_sum(const float* partials, int64_t rows, int64_t cols, T* out, cudaStream_t stream) {
  if (cols == 0) return cudaSuccess;  // an empty grid is a launch error
  const dim3 block(kWarp, kRowsAtOnce);
  column_sum_kernel<T>
      <<<static_cast<unsigned>((cols + kWarp - 1) / kWarp), block, 0, stream>>>(partials, rows, cols, out);
  return cudaGetLastError();
}

template cudaError_t launch_column_sum(const float*, int64_t, int64_t, float*, cudaStream_t);
template cudaError_t launch_column_sum(const float*, int64_t, int64_t, Bf16*, cudaStream_t);

}  // namespace qkr
