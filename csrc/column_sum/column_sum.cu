#include "csrc/column_sum/launch.h"
#include "csrc/core/pack16.cuh"
#include "csrc/core/reduce.cuh"

namespace qkr {
namespace {

constexpr int kColumns = 8;  // of a block: one sector of memory a row
constexpr int kWarps = 16;
constexpr int kRowLanes = kWarp / kColumns;  // a warp's rows at a time
constexpr int kRows = kWarps * kRowLanes;    // a block's
constexpr int kAtOnce = 8;                   // loads of a thread under way together

template <class T>
struct ColumnSums {
  ColumnSum<T> part[2];
};

// A block owns kColumns columns of the sum blockIdx.y. A thread adds every kRows-th row; then its warp's threads and
// the warps are added in order.
template <class T>
__global__ void __launch_bounds__(kWarp* kWarps)
    column_sum_kernel(const __grid_constant__ ColumnSums<T> sums, int64_t cols) {
  __shared__ float of_warp[kWarps][kColumns];
  const ColumnSum<T>& p = sums.part[blockIdx.y];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, column = lane % kColumns;
  const int64_t col = static_cast<int64_t>(blockIdx.x) * kColumns + column;
  const int64_t rows = col < cols ? p.rows : 0;
  float sum = 0.f;
  for (int64_t first = warp * kRowLanes + lane / kColumns; first < rows; first += kRows * kAtOnce) {
    float x[kAtOnce] = {};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i * kRows < rows) x[i] = p.partials[(first + i * kRows) * cols + col];
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) sum += x[i];
  }
#pragma unroll
  for (int offset = kColumns; offset < kWarp; offset *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (lane < kColumns) of_warp[warp][column] = sum;
  __syncthreads();
  if (threadIdx.x >= kColumns || col >= cols) return;
  sum = 0.f;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += of_warp[w][column];
  p.out[col] = from_float<T>(sum);
}

}  // namespace

template <class T>
cudaError_t launch_column_sums(const ColumnSum<T>& first, const ColumnSum<T>& second, int64_t cols,
                               cudaStream_t stream) {
  if (cols == 0) return cudaSuccess;  // an empty grid is a launch error
  const dim3 grid(static_cast<unsigned>((cols + kColumns - 1) / kColumns), second.out == nullptr ? 1 : 2);
  column_sum_kernel<T><<<grid, kWarp * kWarps, 0, stream>>>({{first, second}}, cols);
  return cudaGetLastError();
}

template cudaError_t launch_column_sums(const ColumnSum<float>&, const ColumnSum<float>&, int64_t, cudaStream_t);
template cudaError_t launch_column_sums(const ColumnSum<Bf16>&, const ColumnSum<Bf16>&, int64_t, cudaStream_t);

}  // namespace qkr
