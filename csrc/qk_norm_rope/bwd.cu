#include "csrc/qk_norm_rope/launch.h"
#include "csrc/qk_norm_rope/rows.cuh"

namespace qkr {
namespace {

constexpr int kBlocksPerSm = 5;  // 96 registers a thread: nothing spills, and 40 KB are under way

// dy -> dz, in place: the factor, then the rotation by the negative angle.
template <class Shape>
__device__ inline void turn_back(int head_dim, bool rotates, const RawHeadRow<Shape>& table, float factor,
                                 HeadRow<Shape>& g) {
  for_each_pair<Shape>(head_dim, g, [&](float& low, float& high) { low *= factor, high *= factor; });
  if (!rotates) return;
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
    float c[Shape::kPack], s[Shape::kPack];
    table.low[i].unpack(c);
    table.high[i].unpack(s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      const float low = g.low[i][j], high = g.high[i][j];
      g.low[i][j] = low * c[j] + high * s[j];
      g.high[i][j] = high * c[j] - low * s[j];
    }
  });
}

// dz -> dx, in place, with the row's share of dw: r = 1 / rms(x).
template <class Shape>
__device__ inline void norm_back(int head_dim, float eps, const typename Shape::Element* w, HeadRow<Shape>& x,
                                 HeadRow<Shape>& g, HeadRow<Shape>& dw) {
  using T = typename Shape::Element;
  const float cols = static_cast<float>(head_dim);
  const float r = rsqrtf(dot<Shape>(head_dim, x, x) / cols + eps);
  RawHeadRow<Shape> weight;  // only now, from the first-level cache: earlier there are no registers for it
  load_raw_halves<Shape>(w, w + head_dim / 2, head_dim, weight);
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
    float w_low[Shape::kPack], w_high[Shape::kPack];
    weight.low[i].unpack(w_low);
    weight.high[i].unpack(w_high);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      float n_low = x.low[i][j] *= r, n_high = x.high[i][j] *= r;
      round_both<T>(n_low, n_high);
      dw.low[i][j] += g.low[i][j] * n_low;
      dw.high[i][j] += g.high[i][j] * n_high;
      g.low[i][j] *= w_low[j];
      g.high[i][j] *= w_high[j];
    }
  });
  const float mean_gm = dot<Shape>(head_dim, g, x) / cols;
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      g.low[i][j] = r * (g.low[i][j] - x.low[i][j] * mean_gm);
      g.high[i][j] = r * (g.high[i][j] - x.high[i][j] * mean_gm);
    }
  });
}

// Adds the block's shares of dw, row group by row group in order, to partials[block, :].
template <class Shape>
__device__ inline void store_partial(const QkNormRopeGradParams<typename Shape::Element>& p, unsigned block,
                                     const HeadRow<Shape>& dw) {
  constexpr int kPack = Shape::kPack;
  extern __shared__ float shares[];  // [kRows, D]
  const int half = p.head_dim / 2;
  float* const share = shares + threadIdx.x / Shape::kLanes * p.head_dim;
  for_own_pairs<Shape>(p.head_dim, [&](int i, int pack) {
#pragma unroll
    for (int j = 0; j < kPack; ++j) {
      share[pack * kPack + j] = dw.low[i][j];
      share[half + pack * kPack + j] = dw.high[i][j];
    }
  });
  __syncthreads();
  for (int d = threadIdx.x; d < p.head_dim; d += kRowThreads) {
    float sum = 0.f;
    for (int r = 0; r < Shape::kRows; ++r) sum += shares[r * p.head_dim + d];
    p.partials[static_cast<int64_t>(block) * p.head_dim + d] = sum;
  }
}

// kLanes threads own a row, then the row (blocks of the part) * kRows further on; a thread sees the same columns in each,
// so its share of dw stays in registers.
template <class Shape, bool kNorm>
__global__ void __launch_bounds__(kRowThreads, kBlocksPerSm)
    qk_norm_rope_grad_kernel(const __grid_constant__ HeadPair<QkNormRopeGradParams<typename Shape::Element>> pair) {
  using T = typename Shape::Element;
  const auto [p, block, blocks] = pair.part_of_block();
  const int half = p.head_dim / 2;
  const unsigned rows = static_cast<unsigned>(p.tokens) * p.heads, heads = p.heads, stride = blocks * Shape::kRows;
  HeadRow<Shape> dw = {};
  // the block goes round as a whole: the shuffles need all lanes
  for (unsigned first = block * Shape::kRows; first < rows; first += stride) {
    const unsigned row = first + threadIdx.x / Shape::kLanes, safe = row < rows ? row : rows - 1;
    const unsigned token = safe / heads, head = safe - token * heads;
    const T* const dy = p.dy + token * p.dy_token_stride + head * p.dy_head_stride;
    const T* const at = p.x + token * p.x_token_stride + head * p.x_head_stride;
    RawHeadRow<Shape> raw_g, raw_x, table;
    load_raw_halves<Shape>(dy, dy + half, p.head_dim, raw_g);
    if constexpr (kNorm) load_raw_halves<Shape>(at, at + half, p.head_dim, raw_x);
    if (p.cos != nullptr) {
      const int64_t entry = static_cast<int64_t>(token) * half;
      load_raw_halves<Shape>(p.cos + entry, p.sin + entry, p.head_dim, table);
    }
    const float factor = row >= rows ? 0.f : p.factor != nullptr ? p.factor[token] : 1.f;  // 0: no share in dw
    HeadRow<Shape> g, x;
    unpack(raw_g, p.head_dim, g);
    turn_back<Shape>(p.head_dim, p.cos != nullptr, table, factor, g);
    if constexpr (kNorm) {
      unpack(raw_x, p.head_dim, x);
      norm_back<Shape>(p.head_dim, p.eps, p.w, x, g, dw);
    }
    if (row < rows) store_halves<Shape>(p.dx + static_cast<int64_t>(row) * p.head_dim, p.head_dim, g);
  }
  if constexpr (kNorm) store_partial<Shape>(p, block, dw);
}

template <class T>
bool is_aligned(const QkNormRopeGradParams<T>& p) {
  return is_16_byte_aligned(p.dy, p.dy_token_stride) && is_16_byte_aligned(p.dy, p.dy_head_stride) &&
         is_16_byte_aligned(p.x, p.x_token_stride) && is_16_byte_aligned(p.x, p.x_head_stride) &&
         is_16_byte_aligned(p.w) && is_16_byte_aligned(p.cos) && is_16_byte_aligned(p.sin) && is_16_byte_aligned(p.dx);
}

}  // namespace

QkNormRopePartials qk_norm_rope_partials(int64_t first_rows, int64_t second_rows) {
  constexpr int64_t kMaxBlocks = kBlocksPerSm * 132;  // one wave on an H200
  constexpr int64_t kFewestRowsOfABlock = 8;
  const auto enough = [](int64_t rows) { return (rows + kFewestRowsOfABlock - 1) / kFewestRowsOfABlock; };
  const int64_t rows = first_rows + second_rows;
  if (enough(first_rows) + enough(second_rows) <= kMaxBlocks) return {enough(first_rows), enough(second_rows)};
  // by the rows, so that all blocks end together; at least one for a tensor that has any
  int64_t second = kMaxBlocks * second_rows / rows;
  if (second == 0 && second_rows > 0) second = 1;
  if (second == kMaxBlocks && first_rows > 0) second = kMaxBlocks - 1;
  return {kMaxBlocks - second, second};
}

template <class T>
cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<T>& first, const QkNormRopeGradParams<T>& second,
                                     cudaStream_t stream) {
  if (!is_pair(first, second)) return cudaErrorInvalidValue;
  if (first.head_dim == 0 || head_rows(first) + head_rows(second) == 0) return cudaSuccess;
  with_head_shape<T>(first.head_dim, is_aligned(first) && is_aligned(second), [&](auto shape) {
    using Shape = decltype(shape);
    if (first.w != nullptr) {
      const QkNormRopePartials blocks = qk_norm_rope_partials(head_rows(first), head_rows(second));
      const auto pair = head_pair(first, second, blocks.first, blocks.second);
      const size_t shared = sizeof(float) * Shape::kRows * static_cast<size_t>(first.head_dim);  // at most 16 KB
      qk_norm_rope_grad_kernel<Shape, true><<<pair.blocks(), kRowThreads, shared, stream>>>(pair);
    } else {
      const auto blocks = [](const auto& p) { return (head_rows(p) + Shape::kRows - 1) / Shape::kRows; };
      const auto pair = head_pair(first, second, blocks(first), blocks(second));
      qk_norm_rope_grad_kernel<Shape, false><<<pair.blocks(), kRowThreads, 0, stream>>>(pair);
    }
  });
  return cudaGetLastError();
}

template cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<float>&, const QkNormRopeGradParams<float>&,
                                              cudaStream_t);
template cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<Bf16>&, const QkNormRopeGradParams<Bf16>&,
                                              cudaStream_t);

}  // namespace qkr
