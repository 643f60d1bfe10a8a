// The matrix products of one iteration, all operands in shared memory (csrc/polar/layout.cuh), fp64 tensor cores.
#pragma once

#include "csrc/polar/layout.cuh"

namespace qkr {

// acc += X^T Y for the tile whose rows are X's columns from m0 and whose columns are Y's from n0 (multiples of 16);
// X, Y [kRows, kN].
template <int kN, int kRows, int kRowTiles, int kColumnTiles>
__device__ inline void multiply_transposed(double (&acc)[kRowTiles][kColumnTiles][4], const double* x, const double* y, int m0,
                                           int n0, MmaLane lane) {
  const int low = lane.g ^ (lane.t << 2), high = low ^ 8;  // columns g and g + 8 of a 16-wide group in row t
  x += lane.t * kN + m0;
  y += lane.t * kN + n0;
#pragma unroll 2
  for (int k = 0; k < kRows; k += 8, x += 8 * kN, y += 8 * kN) {
    double a[kRowTiles][4], b[kColumnTiles][2];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      a[i][0] = x[16 * i + low];
      a[i][1] = x[16 * i + high];
      a[i][2] = x[16 * i + low + 4 * kN];
      a[i][3] = x[16 * i + high + 4 * kN];
    }
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      const int column = 16 * (j / 2) + (j % 2 == 0 ? low : high);
      b[j][0] = y[column];
      b[j][1] = y[column + 4 * kN];
    }
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) mma_m16n8k8(acc[i][j], a[i], b[j]);
    }
  }
}

// acc [32, 32] += X(m0.., :) G(:, n0..), G symmetric by its lower tiles.
template <int kStripes>
__device__ inline void multiply_symmetric(double (&acc)[2][4][4], const double* x, const double* g, int m0, int n0,
                                          MmaLane lane) {
  constexpr int kN = PolarShape<kStripes>::kN;
  const int shift = (lane.g & 3) << 2;
  const int low = lane.g ^ (lane.t << 2);
  x += (m0 + lane.g) * kN + lane.t;
#pragma unroll 1
  for (int tile = 0; tile < kN / 16; ++tile, x += 16) {
    const double* side[2];  // the two 16-wide column tiles of G, in storage order or transposed
    bool stored[2];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const int column = n0 / 16 + c;
      stored[c] = tile >= column;
      side[c] = stored[c] ? g + tile_offset(tile, column) + lane.t * 16 : g + tile_offset(column, tile) + lane.g * 16 + lane.t;
    }
#pragma unroll
    for (int k = 0; k < 16; k += 8) {
      const int first = k ^ shift, second = (k + 4) ^ shift;
      double a[2][4], b[4][2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        a[i][0] = x[16 * i * kN + first];
        a[i][1] = x[(16 * i + 8) * kN + first];
        a[i][2] = x[16 * i * kN + second];
        a[i][3] = x[(16 * i + 8) * kN + second];
      }
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if (stored[c]) {
          b[2 * c][0] = side[c][16 * k + low];
          b[2 * c][1] = side[c][16 * (k + 4) + low];
          b[2 * c + 1][0] = side[c][16 * k + (low ^ 8)];
          b[2 * c + 1][1] = side[c][16 * (k + 4) + (low ^ 8)];
        } else {
          b[2 * c][0] = side[c][first];
          b[2 * c][1] = side[c][second];
          b[2 * c + 1][0] = side[c][128 + first];
          b[2 * c + 1][1] = side[c][128 + second];
        }
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_m16n8k8(acc[i][j], a[i], b[j]);
      }
    }
  }
}

// Calls body(row, column, value pair) for what this lane holds of a tile at (m0, n0): two neighbours of a row at a time.
template <int kRowTiles, int kColumnTiles, class Body>
__device__ inline void for_pairs(double (&acc)[kRowTiles][kColumnTiles][4], int m0, int n0, MmaLane lane, const Body& body) {
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) {
      body(m0 + 16 * i + lane.g, n0 + 8 * j + 2 * lane.t, acc[i][j][0], acc[i][j][1]);
      body(m0 + 16 * i + 8 + lane.g, n0 + 8 * j + 2 * lane.t, acc[i][j][2], acc[i][j][3]);
    }
  }
}

template <int kRowTiles, int kColumnTiles>
__device__ inline void store_triangle(double (&acc)[kRowTiles][kColumnTiles][4], double* g, int m0, int n0, MmaLane lane) {
  for_pairs(acc, m0, n0, lane, [&](int row, int column, double first, double second) {
    double* const at = g + tile_offset(row / 16, column / 16) + in_tile(row & 15, column & 15);
    *reinterpret_cast<double2*>(at) = make_double2(first, second);
  });
}

// triangle <- the lower triangle of X^T X. 9/16 of the tensor-core work of a full product, an equal share on each of the SM's four
// quarters (warps w mod 4): halves of 32 x 32 tiles below the diagonal, then the tiles on it without their upper right quarter.
template <int kStripes>
__device__ __noinline__ void gram() {
  constexpr int kN = PolarShape<kStripes>::kN;
  const double* const x = PolarMemory<kStripes>::get().square;
  double* const g = PolarMemory<kStripes>::get().triangle;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  const MmaLane lane = mma_lane();
  constexpr int kHalves = kStripes * (kStripes - 1);
  if (warp < kHalves) {
    const int pair = warp / 2;
    int row = 1;
    while ((row + 1) * row / 2 <= pair) ++row;
    const int m0 = 32 * row, n0 = 32 * (pair - row * (row - 1) / 2) + 16 * (warp % 2);
    double acc[2][2][4] = {};
    multiply_transposed<kN, kN>(acc, x, x, m0, n0, lane);
    store_triangle(acc, g, m0, n0, lane);
  } else {
    const int start = 32 * (warp - kHalves);
    double upper[1][2][4] = {}, lower[1][4][4] = {};
    multiply_transposed<kN, kN>(upper, x, x, start, start, lane);
    store_triangle(upper, g, start, start, lane);
    multiply_transposed<kN, kN>(lower, x, x, start + 16, start, lane);
    store_triangle(lower, g, start + 16, start, lane);
  }
}

// X <- from_x X + from_product X G, G in the triangle. The whole product is in registers before anything is overwritten.
template <int kStripes>
__device__ __noinline__ void update(double from_x, double from_product) {
  constexpr int kN = PolarShape<kStripes>::kN;
  double* const x = PolarMemory<kStripes>::get().square;
  const double* const g = PolarMemory<kStripes>::get().triangle;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  const MmaLane lane = mma_lane();
  const int m0 = 32 * (warp / kStripes), n0 = 32 * (warp % kStripes);
  double acc[2][4][4] = {};
  multiply_symmetric<kStripes>(acc, x, g, m0, n0, lane);
  for_pairs(acc, m0, n0, lane, [&](int row, int column, double& first, double& second) {
    const double2 old = *reinterpret_cast<const double2*>(x + square_index<kN>(row, column));
    first = from_x * old.x + from_product * first;
    second = from_x * old.y + from_product * second;
  });
  __syncthreads();
  for_pairs(acc, m0, n0, lane, [&](int row, int column, double first, double second) {
    *reinterpret_cast<double2*>(x + square_index<kN>(row, column)) = make_double2(first, second);
  });
  __syncthreads();
}

}  // namespace qkr
