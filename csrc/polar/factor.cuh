// S = L D L^T of a symmetric matrix stored by its lower 16 x 16 tiles, in place, and an estimate of its smallest eigenvalue.
// It exists if and only if S is positive definite, when every pivot is positive: the Cholesky test without square roots.
// Afterwards the diagonal tiles hold the inverses of L's diagonal tiles, the tiles below them hold L D.
#pragma once

#include "csrc/polar/layout.cuh"

namespace qkr {

// 1 / x to an ulp or two, for x > 0 that is not subnormal; a third of the latency of the rounded division, on the critical path.
__device__ inline double fast_reciprocal(double x) {
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;\n" : "=d"(y) : "d"(x));
  y = fma(fma(-x, y, 1.0), y, y);
  return fma(fma(-x, y, 1.0), y, y);
}

// One warp; lanes 16-31 repeat lanes 0-15. Lane r holds row r of the tile and of the inverse that grows beside it.
__device__ inline bool factor_diagonal_tile(double* tile, double* inverse_pivot) {
  const int r = static_cast<int>(threadIdx.x) & 15;
  double a[16], inverse[16];
#pragma unroll
  for (int c = 0; c < 16; ++c) {
    a[c] = tile[in_tile(r, c)];
    inverse[c] = c == r ? 1 : 0;
  }
  bool positive = true;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const double pivot = __shfl_sync(0xffffffffu, a[j], j);
    positive = positive && pivot > 0;
    const double one_over = fast_reciprocal(pivot);
    const double factor = r > j ? a[j] * one_over : 0;
    if (r == j) inverse_pivot[j] = one_over;
#pragma unroll
    for (int c = 0; c < 16; ++c) {
      if (c > j) a[c] -= factor * __shfl_sync(0xffffffffu, a[c], j);
      if (c <= j) inverse[c] -= factor * __shfl_sync(0xffffffffu, inverse[c], j);
    }
  }
  __syncwarp();
#pragma unroll
  for (int c = 0; c < 16; ++c) tile[in_tile(r, c)] = inverse[c];
  return positive;
}

// acc [16, 16] += A diag(w) B^T for two tiles; w null: the identity.
__device__ inline void multiply_tiles(double (&acc)[2][4], const double* a_tile, const double* b_tile, const double* w,
                                      MmaLane lane) {
#pragma unroll
  for (int k = 0; k < 16; k += 8) {
    const int first = k + lane.t, second = first + 4;
    double a[4] = {a_tile[in_tile(lane.g, first)], a_tile[in_tile(lane.g + 8, first)], a_tile[in_tile(lane.g, second)],
                   a_tile[in_tile(lane.g + 8, second)]};
    if (w != nullptr) {
      a[0] *= w[first];
      a[1] *= w[first];
      a[2] *= w[second];
      a[3] *= w[second];
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const double b[2] = {b_tile[in_tile(8 * j + lane.g, first)], b_tile[in_tile(8 * j + lane.g, second)]};
      mma_m16n8k8(acc[j], a, b);
    }
  }
}

// tile <- from_tile tile + from_product acc
__device__ inline void blend_tile(double* tile, const double (&acc)[2][4], double from_tile, double from_product, MmaLane lane) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      double2* const at = reinterpret_cast<double2*>(tile + in_tile(lane.g + 8 * half, 8 * j + 2 * lane.t));
      const double2 old = *at;
      *at = make_double2(from_tile * old.x + from_product * acc[j][2 * half],
                         from_tile * old.y + from_product * acc[j][2 * half + 1]);
    }
  }
}

// All threads of the block. Stops at the first tile with a pivot that is not positive.
template <int kStripes>
__device__ inline bool factor() {
  using Shape = PolarShape<kStripes>;
  double* const s = PolarMemory<kStripes>::get().triangle;
  PolarScratch<kStripes>& scratch = *PolarMemory<kStripes>::get().scratch;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  const MmaLane lane = mma_lane();
  for (int b = 0; b < Shape::kTiles; ++b) {
    if (warp == 0) {
      const bool positive = factor_diagonal_tile(s + tile_offset(b, b), scratch.inverse_pivot + 16 * b);
      if (threadIdx.x == 0) scratch.positive = positive;
    }
    __syncthreads();
    if (!scratch.positive) return false;
    for (int i = b + 1 + warp; i < Shape::kTiles; i += Shape::kWarps) {
      double acc[2][4] = {};
      multiply_tiles(acc, s + tile_offset(i, b), s + tile_offset(b, b), nullptr, lane);
      __syncwarp();
      blend_tile(s + tile_offset(i, b), acc, 0, 1, lane);
    }
    __syncthreads();
    int turn = 0;
    for (int i = b + 1; i < Shape::kTiles; ++i) {
      for (int k = b + 1; k <= i; ++k, ++turn) {
        if (turn % Shape::kWarps != warp) continue;
        double acc[2][4] = {};
        multiply_tiles(acc, s + tile_offset(i, b), s + tile_offset(k, b), scratch.inverse_pivot + 16 * b, lane);
        blend_tile(s + tile_offset(i, k), acc, 1, -1, lane);
      }
    }
    __syncthreads();
  }
  return true;
}

// scratch.vector <- S^-1 scratch.vector through the factors.
template <int kStripes>
__device__ inline void solve() {
  using Shape = PolarShape<kStripes>;
  const double* const s = PolarMemory<kStripes>::get().triangle;
  PolarScratch<kStripes>& scratch = *PolarMemory<kStripes>::get().scratch;
  const int thread = static_cast<int>(threadIdx.x);
  double* const w = scratch.vector;
  for (int b = 0; b < Shape::kTiles; ++b) {  // w <- D^-1 L^-1 w
    double y = 0;
    if (thread < 16) {
      for (int c = 0; c < 16; ++c) y += s[tile_offset(b, b) + in_tile(thread, c)] * w[16 * b + c];
      y *= scratch.inverse_pivot[16 * b + thread];
    }
    if (thread < 32) __syncwarp();
    if (thread < 16) w[16 * b + thread] = y;
    __syncthreads();
    for (int row = 16 * (b + 1) + thread; row < Shape::kN; row += Shape::kThreads) {
      double sum = 0;
      for (int c = 0; c < 16; ++c) sum += s[tile_offset(row / 16, b) + in_tile(row & 15, c)] * w[16 * b + c];
      w[row] -= sum;
    }
    __syncthreads();
  }
  for (int b = Shape::kTiles - 1; b >= 0; --b) {  // w <- L^-T w
    for (int job = thread; job < 16 * (Shape::kTiles - 1 - b); job += Shape::kThreads) {
      const int below = b + 1 + job / 16, c = job & 15;
      double sum = 0;
      for (int r = 0; r < 16; ++r) sum += s[tile_offset(below, b) + in_tile(r, c)] * w[16 * below + r];
      scratch.partial[16 * (below - b - 1) + c] = sum;
    }
    __syncthreads();
    double y = 0;
    if (thread < 16) {
      double sum = 0;
      for (int i = 0; i < Shape::kTiles - 1 - b; ++i) sum += scratch.partial[16 * i + thread];
      y = w[16 * b + thread] - scratch.inverse_pivot[16 * b + thread] * sum;
    }
    if (thread < 32) {  // the transposed inverse of the diagonal tile
      double x = 0;
      for (int r = 0; r < 16; ++r) {
        const double y_r = __shfl_sync(0xffffffffu, y, r);
        if (thread < 16) x += s[tile_offset(b, b) + in_tile(r, thread)] * y_r;
      }
      if (thread < 16) w[16 * b + thread] = x;
    }
    __syncthreads();
  }
}

}  // namespace qkr
