#include "csrc/qk_norm_rope/launch.h"
#include "csrc/qk_norm_rope/rows.cuh"

namespace qkr {
namespace {

template <class Shape>
__device__ inline void normalise(float eps, int head_dim, const RawHeadRow<Shape>& weight, HeadRow<Shape>& x) {
  using T = typename Shape::Element;
  const float r = rsqrtf(dot<Shape>(head_dim, x, x) / static_cast<float>(head_dim) + eps);
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
    float w_low[Shape::kPack], w_high[Shape::kPack];
    weight.low[i].unpack(w_low);
    weight.high[i].unpack(w_high);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      x.low[i][j] *= r;
      x.high[i][j] *= r;
      round_both<T>(x.low[i][j], x.high[i][j]);
      x.low[i][j] *= w_low[j];
      x.high[i][j] *= w_high[j];
      round_both<T>(x.low[i][j], x.high[i][j]);
    }
  });
}

// Each product is rounded before the sum, in fp32 as well: no fused multiply-add.
template <class Shape>
__device__ inline void rotate(int head_dim, const RawHeadRow<Shape>& table, HeadRow<Shape>& x) {
  using T = typename Shape::Element;
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
    float c[Shape::kPack], s[Shape::kPack];
    table.low[i].unpack(c);
    table.high[i].unpack(s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      float low_c = __fmul_rn(x.low[i][j], c[j]), high_s = __fmul_rn(x.high[i][j], s[j]);
      float high_c = __fmul_rn(x.high[i][j], c[j]), low_s = __fmul_rn(x.low[i][j], s[j]);
      round_both<T>(low_c, high_s);
      round_both<T>(high_c, low_s);
      x.low[i][j] = low_c - high_s;
      x.high[i][j] = high_c + low_s;
    }
  });
}

// kLanes threads own a row.
template <class Shape, bool kNorm>
__global__ void __launch_bounds__(kRowThreads) qk_norm_rope_kernel(QkNormRopeParams<typename Shape::Element> p) {
  using T = typename Shape::Element;
  const unsigned row = blockIdx.x * Shape::kRows + threadIdx.x / Shape::kLanes;
  const unsigned rows = static_cast<unsigned>(p.tokens) * p.heads;
  const unsigned safe = row < rows ? row : rows - 1;  // lanes without a row still take part in the shuffles
  const unsigned token = safe / p.heads, head = safe - token * p.heads;
  const int half = p.head_dim / 2;
  const T* const at = p.x + token * p.token_stride + head * p.head_stride;
  RawHeadRow<Shape> raw, weight, table;
  load_raw_halves<Shape>(at, at + half, p.head_dim, raw);
  if (p.cos != nullptr) {
    const int64_t entry = static_cast<int64_t>(token) * half;
    load_raw_halves<Shape>(p.cos + entry, p.sin + entry, p.head_dim, table);
  }
  if constexpr (kNorm) load_raw_halves<Shape>(p.w, p.w + half, p.head_dim, weight);
  HeadRow<Shape> x;
  unpack(raw, p.head_dim, x);
  if constexpr (kNorm) normalise<Shape>(p.eps, p.head_dim, weight, x);
  if (p.cos != nullptr) rotate<Shape>(p.head_dim, table, x);
  if (p.factor != nullptr) {
    const float factor = p.factor[token];
    for_each_pair<Shape>(p.head_dim, x, [&](float& low, float& high) {
      round_both<T>(low, high);
      low *= factor, high *= factor;
    });
  }
  if (row < rows) store_halves<Shape>(p.y + static_cast<int64_t>(row) * p.head_dim, p.head_dim, x);
}

template <class T>
bool is_aligned(const QkNormRopeParams<T>& p) {
  return is_16_byte_aligned(p.x, p.token_stride) && is_16_byte_aligned(p.x, p.head_stride) && is_16_byte_aligned(p.w) &&
         is_16_byte_aligned(p.cos) && is_16_byte_aligned(p.sin) && is_16_byte_aligned(p.y);
}

}  // namespace

template <class T>
cudaError_t launch_qk_norm_rope(const QkNormRopeParams<T>& p, cudaStream_t stream) {
  const int64_t rows = p.tokens * p.heads;
  if (rows == 0 || p.head_dim == 0) return cudaSuccess;  // an empty grid is a launch error
  if (p.head_dim > kQkNormRopeMaxHeadDim || p.head_dim % 2 != 0 || rows > kQkNormRopeMaxRows)
    return cudaErrorInvalidValue;
  with_head_shape<T>(p.head_dim, is_aligned(p), [&](auto shape) {
    using Shape = decltype(shape);
    const auto grid = static_cast<unsigned>((rows + Shape::kRows - 1) / Shape::kRows);
    if (p.w != nullptr) {
      qk_norm_rope_kernel<Shape, true><<<grid, kRowThreads, 0, stream>>>(p);
    } else {
      qk_norm_rope_kernel<Shape, false><<<grid, kRowThreads, 0, stream>>>(p);
    }
  });
  return cudaGetLastError();
}

template cudaError_t launch_qk_norm_rope(const QkNormRopeParams<float>&, cudaStream_t);
template cudaError_t launch_qk_norm_rope(const QkNormRopeParams<Bf16>&, cudaStream_t);

}  // namespace qkr
