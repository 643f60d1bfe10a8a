#include "csrc/qk_norm_rope/launch.h"
#include "csrc/qk_norm_rope/rows.cuh"

namespace qkr {
namespace {

constexpr int kBlocksPerSm = 3;

// dy -> dz, in place: the factor, then the rotation by the negative angle.
template <class Shape>
__device__ inline void turn_back(const QkNormRopeGradParams<typename Shape::Element>& p, int64_t token, HeadRow<Shape>& g) {
  if (p.factor != nullptr) {
    const float factor = p.factor[token];
    for_each_pair<Shape>(p.head_dim, g, [&](float& low, float& high) { low *= factor, high *= factor; });
  }
  if (p.cos == nullptr) return;
  const int64_t half = p.head_dim / 2;
  for_own_pairs<Shape>(p.head_dim, [&](int i, int pack) {
    float c[Shape::kPack], s[Shape::kPack];
    load_floats<Shape::kPack>(p.cos + token * half, pack, c);
    load_floats<Shape::kPack>(p.sin + token * half, pack, s);
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) {
      const float low = g.low[i][j], high = g.high[i][j];
      g.low[i][j] = low * c[j] + high * s[j];
      g.high[i][j] = high * c[j] - low * s[j];
    }
  });
}

// Adds the block's shares of dw, row group by row group in order, to partials[blockIdx.x, :].
template <class Shape>
__device__ inline void store_partial(const QkNormRopeGradParams<typename Shape::Element>& p, const HeadRow<Shape>& dw) {
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
    p.partials[static_cast<int64_t>(blockIdx.x) * p.head_dim + d] = sum;
  }
}

// kLanes threads own a row, then the row (grid size) * kRows further on; a thread sees the same columns in each, so its share
// of dw stays in registers.
template <class Shape, bool kNorm>
__global__ void __launch_bounds__(kRowThreads, kBlocksPerSm) qk_norm_rope_grad_kernel(QkNormRopeGradParams<typename Shape::Element> p) {
  using T = typename Shape::Element;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * Shape::kRows;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Shape::kRows;  // of the block, which goes round as a whole
  const int token_step = static_cast<int>(stride / p.heads), head_step = static_cast<int>(stride % p.heads);
  const int turns = static_cast<int>((p.tokens * p.heads - first + stride - 1) / stride);
  const int64_t row = first + threadIdx.x / Shape::kLanes;
  int token = static_cast<int>(row / p.heads), head = static_cast<int>(row % p.heads);
  HeadRow<Shape> dw = {};
  for (int turn = 0; turn < turns; ++turn) {
    const bool mine = token < p.tokens;
    HeadRow<Shape> g = {}, x = {};
    if (mine) {
      load_halves<Shape>(p.dy + token * p.dy_token_stride + head * p.dy_head_stride, p.head_dim, g);
      if constexpr (kNorm) load_halves<Shape>(p.x + token * p.x_token_stride + head * p.x_head_stride, p.head_dim, x);
      turn_back<Shape>(p, token, g);
    }
    if constexpr (kNorm) {
      const float cols = static_cast<float>(p.head_dim);
      const float r = rsqrtf(dot<Shape>(p.head_dim, x, x) / cols + p.eps);
      HeadRow<Shape> w;  // from the first-level cache in each turn: registers are dearer
      load_halves<Shape>(p.w, p.head_dim, w);
      for_own_pairs<Shape>(p.head_dim, [&](int i, int) {
#pragma unroll
        for (int j = 0; j < Shape::kPack; ++j) {
          x.low[i][j] *= r;
          x.high[i][j] *= r;
          dw.low[i][j] += g.low[i][j] * rounded<T>(x.low[i][j]);
          dw.high[i][j] += g.high[i][j] * rounded<T>(x.high[i][j]);
          g.low[i][j] *= w.low[i][j];
          g.high[i][j] *= w.high[i][j];
        }
      });
      const float mean_gm = dot<Shape>(p.head_dim, g, x) / cols;
      for_own_pairs<Shape>(p.head_dim, [&](int i, int) {
#pragma unroll
        for (int j = 0; j < Shape::kPack; ++j) {
          g.low[i][j] = r * (g.low[i][j] - x.low[i][j] * mean_gm);
          g.high[i][j] = r * (g.high[i][j] - x.high[i][j] * mean_gm);
        }
      });
    }
    if (mine) store_halves<Shape>(p.dx + (static_cast<int64_t>(token) * p.heads + head) * p.head_dim, p.head_dim, g);
    token += token_step;
    head += head_step;
    if (head >= p.heads) head -= p.heads, ++token;
  }
  if constexpr (kNorm) store_partial<Shape>(p, dw);
}

template <class T>
bool is_aligned(const QkNormRopeGradParams<T>& p) {
  return is_16_byte_aligned(p.dy, p.dy_token_stride) && is_16_byte_aligned(p.dy, p.dy_head_stride) &&
         is_16_byte_aligned(p.x, p.x_token_stride) && is_16_byte_aligned(p.x, p.x_head_stride) &&
         is_16_byte_aligned(p.w) && is_16_byte_aligned(p.cos) && is_16_byte_aligned(p.sin) && is_16_byte_aligned(p.dx);
}

}  // namespace

int64_t qk_norm_rope_partials(int64_t rows) {
  constexpr int64_t kMaxBlocks = kBlocksPerSm * 132;  // one wave on an H200
  constexpr int64_t kFewestRowsOfABlock = 8;
  const int64_t blocks = (rows + kFewestRowsOfABlock - 1) / kFewestRowsOfABlock;
  return blocks < kMaxBlocks ? blocks : kMaxBlocks;
}

template <class T>
cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<T>& p, cudaStream_t stream) {
  const int64_t rows = p.tokens * p.heads;
  if (rows == 0 || p.head_dim == 0) return cudaSuccess;
  if (p.head_dim > kQkNormRopeMaxHeadDim || p.head_dim % 2 != 0) return cudaErrorInvalidValue;
  with_head_shape<T>(p.head_dim, is_aligned(p), [&](auto shape) {
    using Shape = decltype(shape);
    if (p.w != nullptr) {
      const auto grid = static_cast<unsigned>(qk_norm_rope_partials(rows));
      const size_t shared = sizeof(float) * Shape::kRows * static_cast<size_t>(p.head_dim);  // at most 32 KB
      qk_norm_rope_grad_kernel<Shape, true><<<grid, kRowThreads, shared, stream>>>(p);
    } else {
      const auto grid = static_cast<unsigned>((rows + Shape::kRows - 1) / Shape::kRows);
      qk_norm_rope_grad_kernel<Shape, false><<<grid, kRowThreads, 0, stream>>>(p);
    }
  });
  return cudaGetLastError();
}

template cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<float>&, cudaStream_t);
template cudaError_t launch_qk_norm_rope_grad(const QkNormRopeGradParams<Bf16>&, cudaStream_t);

}  // namespace qkr
