#include "csrc/qk_norm_rope/launch.h"
#include "csrc/qk_norm_rope/rows.cuh"

namespace qkr {
namespace {

template <class Shape>
__device__ inline void normalise(const QkNormRopeParams<typename Shape::Element>& p, HeadRow<Shape>& x) {
  using T = typename Shape::Element;
  const float r = rsqrtf(dot<Shape>(p.head_dim, x, x) / static_cast<float>(p.head_dim) + p.eps);
  HeadRow<Shape> w;
  load_halves<Shape>(p.w, p.head_dim, w);
  for_own_pairs<Shape>(p.head_dim, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      x.low[i][j] = rounded<T>(rounded<T>(x.low[i][j] * r) * w.low[i][j]);
      x.high[i][j] = rounded<T>(rounded<T>(x.high[i][j] * r) * w.high[i][j]);
    }
  });
}

template <class Shape>
__device__ inline void rotate(const QkNormRopeParams<typename Shape::Element>& p, int64_t token, HeadRow<Shape>& x) {
  using T = typename Shape::Element;
  const int64_t half = p.head_dim / 2;
  for_own_pairs<Shape>(p.head_dim, [&](int i, int pack) {
    float c[Shape::kPack], s[Shape::kPack];
    load_floats<Shape::kPack>(p.cos + token * half, pack, c);
    load_floats<Shape::kPack>(p.sin + token * half, pack, s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      const float low = x.low[i][j], high = x.high[i][j];
      // each product is rounded before the sum, in fp32 as well: no fused multiply-add
      x.low[i][j] = rounded<T>(rounded<T>(__fmul_rn(low, c[j])) - rounded<T>(__fmul_rn(high, s[j])));
      x.high[i][j] = rounded<T>(rounded<T>(__fmul_rn(high, c[j])) + rounded<T>(__fmul_rn(low, s[j])));
    }
  });
}

// kLanes threads own a row.
template <class Shape, bool kNorm>
__global__ void __launch_bounds__(kRowThreads) qk_norm_rope_kernel(QkNormRopeParams<typename Shape::Element> p) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * Shape::kRows + threadIdx.x / Shape::kLanes;
  const int64_t rows = p.tokens * p.heads;
  const int64_t safe = row < rows ? row : rows - 1;  // lanes without a row still take part in the shuffles
  // one 64-bit division by a run-time number costs more than the row: the block's first row is divided, the rest counts on
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Shape::kRows;
  const int64_t first_token = first / p.heads;
  const unsigned ahead = static_cast<unsigned>(safe - first_token * p.heads);
  const int64_t token = first_token + ahead / static_cast<unsigned>(p.heads);
  const int64_t head = ahead % static_cast<unsigned>(p.heads);
  HeadRow<Shape> x;
  load_halves<Shape>(p.x + token * p.token_stride + head * p.head_stride, p.head_dim, x);
  if constexpr (kNorm) normalise<Shape>(p, x);
  if (p.cos != nullptr) rotate<Shape>(p, token, x);
  if (p.factor != nullptr) {
    const float factor = p.factor[token];
    for_each_pair<Shape>(p.head_dim, x, [&](float& low, float& high) { low *= factor, high *= factor; });
  }
  if (row < rows) store_halves<Shape>(p.y + row * p.head_dim, p.head_dim, x);
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
  if (p.head_dim > kQkNormRopeMaxHeadDim || p.head_dim % 2 != 0) return cudaErrorInvalidValue;
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
