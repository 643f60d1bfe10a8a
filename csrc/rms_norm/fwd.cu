#include "csrc/rms_norm/launch.h"
#include "csrc/rms_norm/rows.cuh"

namespace qkr {
namespace {

// A block owns a row, which it reads once.
template <class Shape, NormMode kMode>
__global__ void __launch_bounds__(Shape::kMaxThreads) rms_norm_kernel(RmsNormParams<typename Shape::Element> p) {
  using T = typename Shape::Element;
  constexpr int kPack = Shape::kPack, kPacks = Shape::kPacks;
  __shared__ BlockSumRoom<1> room;
  const int64_t row = blockIdx.x;
  const T* const x = p.x + row * p.x_stride;
  float h[kPacks][kPack];
  RawPack<T, kPack> weight[kPacks], gate[kPacks];
  float sum_sq[1] = {0.f};
  for_own_packs<Shape>(p.cols, [&](int i, int pack) {
    load_floats<kPack>(x, pack, h[i]);
    if constexpr (kMode == NormMode::kGated) gate[i] = load_raw<kPack>(p.gate + row * p.gate_stride, pack);
    if constexpr (kMode == NormMode::kResidual) {
      float added[kPack];
      load_floats<kPack>(p.added + row * p.added_stride, pack, added);
#pragma unroll
      for (int j = 0; j < kPack; ++j) h[i][j] = rounded<T>(h[i][j] + added[j]);
    }
    weight[i] = load_raw<kPack>(p.w, pack);
  });
  for_own_packs<Shape>(p.cols, [&](int i, int pack) {
    if constexpr (kMode == NormMode::kResidual) store_floats<kPack>(p.sum + row * p.cols, pack, h[i]);
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum_sq[0] += h[i][j] * h[i][j];
  });
  block_sum(sum_sq, room, 0);
  const float r = rsqrtf(sum_sq[0] / static_cast<float>(p.cols) + p.eps);
  for_own_packs<Shape>(p.cols, [&](int i, int pack) {
    float w[kPack], y[kPack];
    weight[i].unpack(w);
#pragma unroll
    for (int j = 0; j < kPack; ++j) y[j] = rounded<T>(h[i][j] * r) * w[j];
    if constexpr (kMode == NormMode::kGated) {
      float g[kPack];
      gate[i].unpack(g);
#pragma unroll
      for (int j = 0; j < kPack; ++j) y[j] = rounded<T>(y[j]) * rounded<T>(sigmoid<T>(g[j]));
    }
    store_floats<kPack>(p.y + row * p.cols, pack, y);
  });
}

template <class T>
bool is_aligned(const RmsNormParams<T>& p) {
  return is_16_byte_aligned(p.x, p.x_stride) && is_16_byte_aligned(p.added, p.added_stride) &&
         is_16_byte_aligned(p.gate, p.gate_stride) && is_16_byte_aligned(p.w) && is_16_byte_aligned(p.y) &&
         is_16_byte_aligned(p.sum);
}

}  // namespace

template <class T>
bool rms_norm_serves(const RmsNormParams<T>& p) {
  return with_row_shape<T>(p.cols, is_aligned(p), [](auto) {});
}

template <class T>
cudaError_t launch_rms_norm(const RmsNormParams<T>& p, cudaStream_t stream) {
  if (p.rows == 0 || p.cols == 0) return cudaSuccess;  // an empty grid is a launch error
  const bool served = with_row_shape<T>(p.cols, is_aligned(p), [&](auto shape) {
    using Shape = decltype(shape);
    const auto grid = static_cast<unsigned>(p.rows);
    const int threads = Shape::threads(p.cols);
    if (p.added != nullptr) {
      rms_norm_kernel<Shape, NormMode::kResidual><<<grid, threads, 0, stream>>>(p);
    } else if (p.gate != nullptr) {
      rms_norm_kernel<Shape, NormMode::kGated><<<grid, threads, 0, stream>>>(p);
    } else {
      rms_norm_kernel<Shape, NormMode::kPlain><<<grid, threads, 0, stream>>>(p);
    }
  });
  return served ? cudaGetLastError() : cudaErrorInvalidValue;
}

template bool rms_norm_serves(const RmsNormParams<float>&);
template bool rms_norm_serves(const RmsNormParams<Bf16>&);
template cudaError_t launch_rms_norm(const RmsNormParams<float>&, cudaStream_t);
template cudaError_t launch_rms_norm(const RmsNormParams<Bf16>&, cudaStream_t);

}  // namespace qkr
