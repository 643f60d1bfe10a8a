#include "csrc/rms_norm/launch.h"
#include "csrc/rms_norm/rows.cuh"

namespace qkr {
namespace {

// What a thread holds of one row, as it lies in memory.
template <class Shape>
struct RawRow {
  using Pack = RawPack<typename Shape::Element, Shape::kPack>;
  Pack h[Shape::kPacks], dy[Shape::kPacks], other[Shape::kPacks];  // other: dsum or gate
};

template <class Shape, NormMode kMode>
__device__ inline void load_row(const RmsNormGradParams<typename Shape::Element>& p, int64_t row, RawRow<Shape>& raw) {
  constexpr int kPack = Shape::kPack;
  for_own_packs<Shape>(p.cols, [&](int i, int pack) {
    raw.h[i] = load_raw<kPack>(p.h + row * p.h_stride, pack);
    raw.dy[i] = load_raw<kPack>(p.dy + row * p.dy_stride, pack);
    if constexpr (kMode == NormMode::kResidual) raw.other[i] = load_raw<kPack>(p.dsum + row * p.dsum_stride, pack);
    if constexpr (kMode == NormMode::kGated) raw.other[i] = load_raw<kPack>(p.gate + row * p.gate_stride, pack);
  });
}

// The gates of a row to the rounded sigmoids s, once.
template <class Shape>
__device__ inline void gates_to_sigmoids(int64_t cols, RawRow<Shape>& raw) {
  using T = typename Shape::Element;
  for_own_packs<Shape>(cols, [&](int i, int) {
    float s[Shape::kPack];
    raw.other[i].unpack(s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) s[j] = sigmoid<T>(s[j]);
    raw.other[i] = RawPack<T, Shape::kPack>::of(s);
  });
}

// dt of one pack: dy, times s where there is a gate.
template <class Shape, NormMode kMode>
__device__ inline void unpack_dt(const RawRow<Shape>& raw, int i, float (&dt)[Shape::kPack], float (&s)[Shape::kPack]) {
  raw.dy[i].unpack(dt);
  if constexpr (kMode == NormMode::kGated) {
    raw.other[i].unpack(s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) dt[j] *= s[j];
  }
}

// A block owns the rows blockIdx.x, + gridDim.x, ... and has the next one under way while it works on one. A thread
// sees the same columns in each, so its share of dw stays in registers until the end.
template <class Shape, NormMode kMode>
__global__ void __launch_bounds__(Shape::kMaxThreads)
    rms_norm_grad_kernel(RmsNormGradParams<typename Shape::Element> p) {
  using T = typename Shape::Element;
  constexpr int kPack = Shape::kPack, kPacks = Shape::kPacks;
  __shared__ BlockSumRoom<2> room;
  const float cols = static_cast<float>(p.cols);
  RawPack<T, kPack> weight[kPacks];
  for_own_packs<Shape>(p.cols, [&](int i, int pack) { weight[i] = load_raw<kPack>(p.w, pack); });
  float dw[kPacks][kPack] = {};
  RawRow<Shape> next;
  load_row<Shape, kMode>(p, blockIdx.x, next);  // the grid has no more blocks than there are rows
  int turn = 0;
  for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x, ++turn) {
    RawRow<Shape> raw = next;
    if (row + gridDim.x < p.rows) load_row<Shape, kMode>(p, row + gridDim.x, next);
    if constexpr (kMode == NormMode::kGated) gates_to_sigmoids<Shape>(p.cols, raw);
    float sums[2] = {0.f, 0.f};  // of h^2 and of g h
    for_own_packs<Shape>(p.cols, [&](int i, int) {
      float h[kPack], dt[kPack], s[kPack], w[kPack];
      raw.h[i].unpack(h);
      weight[i].unpack(w);
      unpack_dt<Shape, kMode>(raw, i, dt, s);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        sums[0] += h[j] * h[j];
        sums[1] += dt[j] * w[j] * h[j];
      }
    });
    block_sum(sums, room, turn);
    const float r = rsqrtf(sums[0] / cols + p.eps);
    const float mean_gm = sums[1] * r / cols;
    for_own_packs<Shape>(p.cols, [&](int i, int pack) {
      float h[kPack], dt[kPack], s[kPack], w[kPack], dh[kPack];
      raw.h[i].unpack(h);
      weight[i].unpack(w);
      unpack_dt<Shape, kMode>(raw, i, dt, s);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const float m = h[j] * r;
        dw[i][j] += dt[j] * rounded<T>(m);
        dh[j] = r * (dt[j] * w[j] - m * mean_gm);
      }
      if constexpr (kMode == NormMode::kGated) {
        float dy[kPack], dgate[kPack];
        raw.dy[i].unpack(dy);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
          const float t = rounded<T>(rounded<T>(h[j] * r) * w[j]);
          dgate[j] = dy[j] * t * s[j] * (1.f - s[j]);
        }
        store_floats<kPack>(p.dgate + row * p.cols, pack, dgate);
      }
      if constexpr (kMode == NormMode::kResidual) {
        float dsum[kPack];
        raw.other[i].unpack(dsum);
#pragma unroll
        for (int j = 0; j < kPack; ++j) dh[j] += dsum[j];
      }
      store_floats<kPack>(p.dh + row * p.cols, pack, dh);
    });
  }
  for_own_packs<Shape>(p.cols, [&](int i, int pack) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) p.partials[blockIdx.x * p.cols + static_cast<int64_t>(pack) * kPack + j] = dw[i][j];
  });
}

template <class T>
bool is_aligned(const RmsNormGradParams<T>& p) {
  return is_16_byte_aligned(p.dy, p.dy_stride) && is_16_byte_aligned(p.dsum, p.dsum_stride) &&
         is_16_byte_aligned(p.h, p.h_stride) && is_16_byte_aligned(p.gate, p.gate_stride) && is_16_byte_aligned(p.w) &&
         is_16_byte_aligned(p.dh) && is_16_byte_aligned(p.dgate);
}

}  // namespace

template <class T>
bool rms_norm_serves(const RmsNormGradParams<T>& p) {
  return with_row_shape<T>(p.cols, is_aligned(p), [](auto) {});
}

int64_t rms_norm_partials(int64_t rows, int64_t cols) {
  constexpr int64_t kSms =
      132;  // of an H200; two blocks of 256 threads on each hold as many bytes in flight as registers allow
  const int64_t blocks = cols <= 2048 ? 4 * kSms : 2 * kSms;
  return rows < blocks ? rows : blocks;
}

template <class T>
cudaError_t launch_rms_norm_grad(const RmsNormGradParams<T>& p, cudaStream_t stream) {
  if (p.rows == 0 || p.cols == 0) return cudaSuccess;
  const bool served = with_row_shape<T>(p.cols, is_aligned(p), [&](auto shape) {
    using Shape = decltype(shape);
    const auto grid = static_cast<unsigned>(rms_norm_partials(p.rows, p.cols));
    const int threads = Shape::threads(p.cols);
    if (p.dsum != nullptr) {
      rms_norm_grad_kernel<Shape, NormMode::kResidual><<<grid, threads, 0, stream>>>(p);
    } else if (p.gate != nullptr) {
      rms_norm_grad_kernel<Shape, NormMode::kGated><<<grid, threads, 0, stream>>>(p);
    } else {
      rms_norm_grad_kernel<Shape, NormMode::kPlain><<<grid, threads, 0, stream>>>(p);
    }
  });
  return served ? cudaGetLastError() : cudaErrorInvalidValue;
}

template bool rms_norm_serves(const RmsNormGradParams<float>&);
template bool rms_norm_serves(const RmsNormGradParams<Bf16>&);
template cudaError_t launch_rms_norm_grad(const RmsNormGradParams<float>&, cudaStream_t);
template cudaError_t launch_rms_norm_grad(const RmsNormGradParams<Bf16>&, cudaStream_t);

}  // namespace qkr
