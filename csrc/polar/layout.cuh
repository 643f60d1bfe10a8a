// Where a block keeps its matrices. N = 32 times the number of 32-wide stripes; one warp for each 32 x 32 tile.
#pragma once

#include "csrc/core/mma_f64.cuh"

namespace qkr {

template <int kStripes>
struct PolarShape {
  static constexpr int kN = 32 * kStripes;
  static constexpr int kWarps = kStripes * kStripes;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kTiles = kN / 16;  // 16 x 16 tiles a side
  static constexpr int kTriangleTiles = kTiles * (kTiles + 1) / 2;
};

// Note [Swizzle]
// A warp reads a fragment as 4 rows x 8 columns or 8 rows x 4 columns of doubles; rows are a multiple of 128 bytes apart, so
// without a shift the rows of a fragment would meet in the same banks. Column groups of 4 are exchanged by the row: no padding,
// and the lanes of a half warp, which is what 8-byte reads are served by, hit 16 different banks pairs.
__device__ inline int swizzled(int row, int column) { return column ^ ((row & 3) << 2); }

template <int kN>
__device__ inline int square_index(int row, int column) {
  return row * kN + swizzled(row, column);
}

// A symmetric matrix by the 16 x 16 tiles of its lower triangle, each dense.
__device__ inline int tile_offset(int tile_row, int tile_column) {
  return (tile_row * (tile_row + 1) / 2 + tile_column) * 256;
}
__device__ inline int in_tile(int row, int column) { return row * 16 + swizzled(row, column); }

// The vectors and sums that the phases of one matrix exchange.
template <int kStripes>
struct PolarScratch {
  static constexpr int kN = 32 * kStripes;
  double sums[2][32];  // of warps; two of them, so that one barrier a sum is enough
  double inverse_pivot[kN], vector[kN], partial[kStripes * kN < 8 * 16 ? 8 * 16 : kStripes * kN];
  int positive;
};

// A block's shared memory. Functions that are not inlined fetch it here instead of by arguments: through a pointer that came in
// as an argument the compiler no longer knows the address space.
template <int kStripes>
struct PolarMemory {
  static constexpr int kSquare = 32 * kStripes * 32 * kStripes;
  static constexpr int kTriangle = PolarShape<kStripes>::kTriangleTiles * 256;
  static constexpr int kBytes = (kSquare + kTriangle) * static_cast<int>(sizeof(double)) + static_cast<int>(sizeof(PolarScratch<kStripes>));

  double* square;    // [N, N], X and later H
  double* triangle;  // its Gram matrix, rows of M, then the factors of H
  PolarScratch<kStripes>* scratch;

  static __device__ PolarMemory get() {
    extern __shared__ __align__(16) double polar_shared[];
    return {polar_shared, polar_shared + kSquare, reinterpret_cast<PolarScratch<kStripes>*>(polar_shared + kSquare + kTriangle)};
  }
};

// Calls body(index in storage, row, column, how many elements of the full matrix it stands for) for this thread's share of a
// triangle: whole tiles by warp.
template <int kStripes, class Body>
__device__ inline void for_triangle(const Body& body) {
  using Shape = PolarShape<kStripes>;
  const int warp = static_cast<int>(threadIdx.x) >> 5, lane = static_cast<int>(threadIdx.x) & 31;
  int tile_row = 0, first = 0;  // of the tile row
  for (int tile = warp; tile < Shape::kTriangleTiles; tile += Shape::kWarps) {
    while (first + tile_row + 1 <= tile) first += ++tile_row;
    const int tile_column = tile - first;
#pragma unroll
    for (int i = 0; i < 256; i += 32) {
      const int row = (i + lane) >> 4, column = swizzled(row, lane & 15);
      body(tile * 256 + i + lane, tile_row * 16 + row, tile_column * 16 + column, tile_row == tile_column ? 1. : 2.);
    }
  }
}

// The sum over all threads of the block, the same bits in each, in a fixed order. `turn` alternates between calls.
template <int kWarps>
__device__ inline double block_sum(double x, double (&sums)[2][32], int& turn) {
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
  turn ^= 1;
  if ((threadIdx.x & 31) == 0) sums[turn][threadIdx.x >> 5] = x;
  __syncthreads();
  double total = 0;
  for (int warp = 0; warp < kWarps; ++warp) total += sums[turn][warp];
  return total;
}

template <int kWarps>
__device__ inline double block_max(double x, double (&sums)[2][32], int& turn) {
  for (int offset = 16; offset > 0; offset >>= 1) x = fmax(x, __shfl_xor_sync(0xffffffffu, x, offset));
  turn ^= 1;
  if ((threadIdx.x & 31) == 0) sums[turn][threadIdx.x >> 5] = x;
  __syncthreads();
  double top = sums[turn][0];
  for (int warp = 1; warp < kWarps; ++warp) top = fmax(top, sums[turn][warp]);
  return top;
}

}  // namespace qkr
