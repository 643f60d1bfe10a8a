#include "csrc/lightning/launch.h"

namespace qkr {
namespace {

__device__ inline float load_float(const float* x) { return *x; }
__device__ inline float load_float(const Bf16* x) { return to_float(*x); }

__device__ inline void store_float(float* to, float x) { *to = x; }
__device__ inline void store_float(Bf16* to, float x) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to->bits) : "f"(x)); }

constexpr int kColumns = 32;          // values of a block
constexpr int kLanes = kColumns / 4;  // threads over them, four values each
constexpr int kRows = 32;             // threads over the keys
constexpr int kStepThreads = kLanes * kRows;
constexpr int kStepWarps = kStepThreads / 32;

// One block: 32 value columns of one head's state, which is read once and written once.
template <class T, int kDim>
__global__ void __launch_bounds__(kStepThreads) step_kernel(LightningStepParams<T> p) {
  constexpr int kSlices = kDim / kColumns;
  __shared__ float partial[kStepWarps][kColumns];
  const int slice = static_cast<int>(blockIdx.x) % kSlices, head = static_cast<int>(blockIdx.x) / kSlices % p.heads;
  const int64_t sequence = blockIdx.x / kSlices / p.heads;
  const int lane = static_cast<int>(threadIdx.x) % kLanes, first_row = static_cast<int>(threadIdx.x) / kLanes;
  const int column = slice * kColumns + lane * 4, kv_head = head / (p.heads / p.kv_heads);
  const T* const q = p.q.data + sequence * p.q.token_stride + head * p.q.head_stride;
  const T* const k = p.k.data + sequence * p.k.token_stride + kv_head * p.k.head_stride;
  const T* const v = p.v.data + sequence * p.v.token_stride + kv_head * p.v.head_stride + column;
  float* const state = p.state + (sequence * p.heads + head) * kDim * kDim + column;
  const float fade = expf(-p.slopes[head]);
  float value[4], sum[4] = {};
  for (int c = 0; c < 4; ++c) value[c] = load_float(v + c);
#pragma unroll
  for (int row = first_row; row < kDim; row += kRows) {
    float4* const at = reinterpret_cast<float4*>(state + row * kDim);
    const float key = load_float(k + row), query = load_float(q + row);
    const float4 old = *at;
    const float next[4] = {fmaf(old.x, fade, key * value[0]), fmaf(old.y, fade, key * value[1]),
                           fmaf(old.z, fade, key * value[2]), fmaf(old.w, fade, key * value[3])};
    *at = make_float4(next[0], next[1], next[2], next[3]);
    for (int c = 0; c < 4; ++c) sum[c] = fmaf(query, next[c], sum[c]);
  }
  for (int c = 0; c < 4; ++c) {
    for (int step = kLanes; step < 32; step *= 2) sum[c] += __shfl_xor_sync(~0u, sum[c], step);
    if (threadIdx.x % 32 < kLanes) partial[threadIdx.x / 32][lane * 4 + c] = sum[c];
  }
  __syncthreads();
  if (threadIdx.x >= kColumns) return;
  float total = 0.f;
  for (int warp = 0; warp < kStepWarps; ++warp) total += partial[warp][threadIdx.x];
  T* const o = p.o.data + sequence * p.o.token_stride + head * p.o.head_stride;
  store_float(o + slice * kColumns + static_cast<int>(threadIdx.x), p.scale * total);
}

template <class T, int kDim>
cudaError_t launch_step(const LightningStepParams<T>& p, cudaStream_t stream) {
  const int64_t blocks = static_cast<int64_t>(p.sequences) * p.heads * (kDim / kColumns);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  step_kernel<T, kDim><<<static_cast<unsigned>(blocks), kStepThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

template <class T>
cudaError_t launch_lightning_step(const LightningStepParams<T>& p, cudaStream_t stream) {
  if (p.sequences == 0 || p.heads == 0) return cudaSuccess;
  if (p.head_dim == 64) return launch_step<T, 64>(p, stream);
  if (p.head_dim == 128) return launch_step<T, 128>(p, stream);
  return cudaErrorInvalidValue;
}

template cudaError_t launch_lightning_step(const LightningStepParams<Bf16>&, cudaStream_t);
template cudaError_t launch_lightning_step(const LightningStepParams<float>&, cudaStream_t);

}  // namespace qkr
