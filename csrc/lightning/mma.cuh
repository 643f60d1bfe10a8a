// The tensor core's warp-wide products of compute capability 8.0, and what feeds them. g = lane / 4 and t = lane % 4
// below.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// A tile of bf16 in shared memory: kPieces * 8 columns, cut into pieces of 16 bytes that are permuted within a row so
// that eight rows' pieces of one column lie in different banks. Byte offset of a piece.
template <int kPieces>
__device__ inline uint32_t tile_offset(int row, int piece) {
  static_assert(kPieces == 4 || kPieces % 8 == 0);
  const int swap = kPieces == 4 ? (row / 2) & 3 : row & 7;
  return static_cast<uint32_t>((row * kPieces + (piece ^ swap)) * 16);
}

__device__ inline uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. r[i] of a lane: matrix i, row g, columns
// 2t, 2t+1.
__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The same transposed: matrix i, rows 2t, 2t+1, column g.
__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c [16, 8] += a [16, 16] b [16, 8] in fp32. c: rows g and g + 8, columns 2t, 2t+1. a: (g, 2t..), (g+8, 2t..), (g,
// 2t+8..), (g+8, 2t+8..). b: rows 2t, 2t+1 and 2t+8, 2t+9 of column g.
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes from global to shared memory; `real` false writes zeros and reads nothing.
__device__ inline void copy_async(uint32_t to, const void* from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(real ? 16 : 0) : "memory");
}

__device__ inline void copy_async_wait_all() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Two bf16 in a word, x in the lower half.
__device__ inline uint32_t pack_bf16(float x, float y) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(y), "f"(x));
  return word;
}
__device__ inline float low_bf16(uint32_t word) { return float_of(word << 16); }
__device__ inline float high_bf16(uint32_t word) { return float_of(word & 0xffff0000u); }

// x and y as sums of kTerms bf16 each, the largest first: 8, 16 and 24 bits of them.
template <int kTerms>
__device__ inline void split_bf16(float x, float y, uint32_t (&terms)[kTerms]) {
#pragma unroll
  for (int i = 0; i < kTerms; ++i) {
    terms[i] = pack_bf16(x, y);
    x -= low_bf16(terms[i]);
    y -= high_bf16(terms[i]);
  }
}

__device__ inline void store_shared(uint32_t address, uint32_t word) {
  asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

}  // namespace qkr
