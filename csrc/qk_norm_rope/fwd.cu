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

// kLanes threads own a row. The blocks from the first part's end on serve the second.
template <class Shape, bool kNorm>
__global__ void __launch_bounds__(kRowThreads)
    qk_norm_rope_kernel(const __grid_constant__ HeadPair<QkNormRopeParams<typename Shape::Element>> pair) {
  using T = typename Shape::Element;
  const auto [p, block, blocks] = pair.part_of_block();
  const unsigned row = block * Shape::kRows + threadIdx.x / Shape::kLanes;
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
cudaError_t launch_qk_norm_rope(const QkNormRopeParams<T>& first, const QkNormRopeParams<T>& second,
                                cudaStream_t stream) {
  if (!is_pair(first, second)) return cudaErrorInvalidValue;
  if (first.head_dim == 0) return cudaSuccess;
  with_head_shape<T>(first.head_dim, is_aligned(first) && is_aligned(second), [&](auto shape) {
    using Shape = decltype(shape);
    const auto blocks = [](const auto& p) { return (head_rows(p) + Shape::kRows - 1) / Shape::kRows; };
    const auto pair = head_pair(first, second, blocks(first), blocks(second));
    if (pair.blocks() == 0) return;  // an empty grid is a launch error
    if (first.w != nullptr) {
      qk_norm_rope_kernel<Shape, true><<<pair.blocks(), kRowThreads, 0, stream>>>(pair);
    } else {
      qk_norm_rope_kernel<Shape, false><<<pair.blocks(), kRowThreads, 0, stream>>>(pair);
    }
  });
  return cudaGetLastError();
}

template cudaError_t launch_qk_norm_rope(const QkNormRopeParams<float>&, const QkNormRopeParams<float>&, cudaStream_t);
template cudaError_t launch_qk_norm_rope(const QkNormRopeParams<Bf16>&, const QkNormRopeParams<Bf16>&, cudaStream_t);

}  // namespace qkr
