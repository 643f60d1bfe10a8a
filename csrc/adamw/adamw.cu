#include "csrc/adamw/device.h"
#include "csrc/adamw/launch.h"
#include "csrc/core/vec.cuh"

namespace qkr {
namespace {

template <int kPack>
__device__ inline void load(const Fp32Master& m, int64_t pack, float (&w)[kPack]) {
  const auto weight = load_pack<kPack>(m.weight, pack);
  for (int i = 0; i < kPack; ++i) w[i] = weight.item[i];
}

template <int kPack>
__device__ inline void load(const SplitMaster& m, int64_t pack, float (&w)[kPack]) {
  const auto high = load_pack<kPack>(m.high, pack);
  const auto low = load_pack<kPack>(m.low, pack);
  for (int i = 0; i < kPack; ++i) w[i] = join_master_value(high.item[i], low.item[i]);
}

template <int kPack>
__device__ inline void store(const Fp32Master& m, int64_t pack, const float (&w)[kPack]) {
  Pack<float, kPack> weight;
  for (int i = 0; i < kPack; ++i) weight.item[i] = w[i];
  store_pack(m.weight, pack, weight);
}

template <int kPack>
__device__ inline void store(const SplitMaster& m, int64_t pack, const float (&w)[kPack]) {
  Pack<Bf16, kPack> high;
  Pack<int16_t, kPack> low;
  for (int i = 0; i < kPack; ++i) {
    high.item[i].bits = master_high_bits(bits_of(w[i]));
    low.item[i] = master_low_bits(bits_of(w[i]));
  }
  store_pack(m.high, pack, high);
  store_pack(m.low, pack, low);
}

template <int kPack, class Master, class Grad>
__device__ inline void update_pack(const AdamwParams<Master, Grad>& p, const AdamwScalars& scalars, float clip_scale,
                                   int64_t pack) {
  float weight[kPack];
  load<kPack>(p.master, pack, weight);
  const auto grad = load_pack<kPack>(p.grad, pack);
  auto exp_avg = load_pack<kPack>(p.exp_avg, pack);
  auto exp_avg_sq = load_pack<kPack>(p.exp_avg_sq, pack);
#pragma unroll
  for (int i = 0; i < kPack; ++i) {
    // __fmul_rn: the product of gradient and scale is rounded before it meets anything else, as on the CPU
    const float g = __fmul_rn(clip_scale, to_float(grad.item[i]));
    const AdamwElement e = adamw_update(scalars, g, {weight[i], exp_avg.item[i], exp_avg_sq.item[i]});
    weight[i] = e.weight;
    exp_avg.item[i] = e.exp_avg;
    exp_avg_sq.item[i] = e.exp_avg_sq;
  }
  store<kPack>(p.master, pack, weight);
  store_pack(p.exp_avg, pack, exp_avg);
  store_pack(p.exp_avg_sq, pack, exp_avg_sq);
}

// A thread owns every (grid size)-th pack of kPack neighbours; block 0 also owns the elements after the last whole pack.
// Thread 0 computes what all elements share: two powers for a few hundred packs.
template <int kPack, class Master, class Grad>
__global__ void adamw_kernel(AdamwParams<Master, Grad> p) {
  __shared__ AdamwScalars shared_scalars;
  if (threadIdx.x == 0) shared_scalars = adamw_scalars(p.hyper);
  __syncthreads();
  const AdamwScalars scalars = shared_scalars;
  const float clip_scale = p.clip_scale == nullptr ? 1.f : *p.clip_scale;
  const int64_t packs = p.count / kPack;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; pack < packs; pack += stride) {
    update_pack<kPack>(p, scalars, clip_scale, pack);
  }
  const int64_t tail = packs * kPack + threadIdx.x;
  if (kPack > 1 && blockIdx.x == 0 && tail < p.count) update_pack<1>(p, scalars, clip_scale, tail);
}

template <int kPack>
bool is_aligned(const Fp32Master& m) {
  return is_pack_aligned<kPack>(m.weight);
}
template <int kPack>
bool is_aligned(const SplitMaster& m) {
  return is_pack_aligned<kPack>(m.high) && is_pack_aligned<kPack>(m.low);
}

}  // namespace

template <class Master, class Grad>
cudaError_t launch_adamw(const AdamwParams<Master, Grad>& p, cudaStream_t stream) {
  if (p.count == 0) return cudaSuccess;  // an empty grid is a launch error
  constexpr int kThreads = 256, kPack = 4;
  constexpr int64_t kMaxBlocks = 16 * 132;  // two waves of eight blocks on each SM of an H200; the loop does the rest
  const int64_t blocks = (p.count / kPack + kThreads) / kThreads;
  const auto grid = static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks);
  const bool aligned = is_aligned<kPack>(p.master) && is_pack_aligned<kPack>(p.grad) &&
                       is_pack_aligned<kPack>(p.exp_avg) && is_pack_aligned<kPack>(p.exp_avg_sq);
  if (aligned) {
    adamw_kernel<kPack><<<grid, kThreads, 0, stream>>>(p);
  } else {
    adamw_kernel<1><<<grid, kThreads, 0, stream>>>(p);
  }
  return cudaGetLastError();
}

template cudaError_t launch_adamw(const AdamwParams<Fp32Master, float>&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwParams<Fp32Master, Bf16>&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwParams<SplitMaster, float>&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwParams<SplitMaster, Bf16>&, cudaStream_t);

}  // namespace qkr
