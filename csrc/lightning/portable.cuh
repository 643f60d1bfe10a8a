// The parts of the mma.sync kernel. A block owns one segment of one head; a warp owns kSlice of the D value columns of
// the state and of the output, for all tokens. The state is kept transposed (value x key), so that its accumulators,
// packed, are just the second operand of q H: it never leaves the warp's registers. Only P = q k^T is shared, through
// shared memory.
#pragma once

#include "csrc/lightning/mma.cuh"
#include "csrc/lightning/pass.h"
#include "csrc/lightning/segments.cuh"

namespace qkr {

// kTerms: how many bf16 P and the state's copy are split into; the decayed values at least two, since their rounding
// would stay in the state. An fp32 input is three of them (planes), exactly; of two split operands the products that
// matter are taken.
template <class T_, int kHeadDim, int kChunkTokens, int kOperandTerms, int kWarpCount>
struct PortableShape {
  using T = T_;
  static constexpr int kDim = kHeadDim, kChunk = kChunkTokens, kTerms = kOperandTerms, kWarps = kWarpCount;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kPlanes = sizeof(T) == 2 ? 1 : 3;
  static constexpr int kStages = kPlanes == 1 ? 2 : 1;  // an fp32 tile is split on its way and has no second buffer
  static constexpr int kAddedTerms = kTerms > 2 ? kTerms : 2;
  static constexpr int kSlice = kDim / kWarps;
  static constexpr int kRowTiles = kChunk / 16, kValueTiles = kSlice / 16, kKeyTiles = kDim / 16;
  static constexpr int kDimPieces = kDim / 8, kChunkPieces = kChunk / 8;
  static constexpr int kTileBytes = kChunk * kDim * 2, kScoreBytes = kChunk * kChunk * 2;
  static constexpr int kTensorBytes = kTileBytes * kPlanes, kStageBytes = 3 * kTensorBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + kTerms * kScoreBytes;
  static_assert(kSlice % 16 == 0);

  float state[kValueTiles][2 * kKeyTiles][4];  // [value tile of 16][key tile of 8]: values g, g + 8, keys 2t, 2t+1
  float out[kRowTiles][2 * kValueTiles][4];    // [token tile of 16][value tile of 8]
};

// What a thread knows besides the pass.
struct PortableThread {
  int lane, warp;
  uint32_t shared;  // its address
  float rate;       // slope in powers of two a token
  __device__ int g() const { return lane / 4; }
  __device__ int t() const { return lane % 4; }
};

__device__ inline float decay_of(const PortableThread& me, int tokens) {
  return exp2f(-me.rate * static_cast<float>(max(tokens, 0)));
}

// First token's row of one head, and the step to the next token along the sweep.
template <class T>
struct ChunkRows {
  T* data;
  int64_t step;
};

template <class T>
__device__ ChunkRows<T> chunk_rows(const HeadRows<T>& x, int head, int begin, int tokens, bool reverse) {
  const int64_t token = reverse ? tokens - 1 - begin : begin;
  return {x.data + token * x.token_stride + head * x.head_stride, reverse ? -x.token_stride : x.token_stride};
}

// bf16: asynchronous copies of one tensor's chunk to `tile`; rows past the length become zeros.
template <class S>
__device__ void load_tile(ChunkRows<const Bf16> rows, int length, uint32_t tile) {
#pragma unroll
  for (int i = 0; i < S::kChunk * S::kDimPieces / S::kThreads; ++i) {
    const int index = i * S::kThreads + static_cast<int>(threadIdx.x);
    const int row = index / S::kDimPieces, piece = index % S::kDimPieces;
    const bool real = row < length;
    copy_async(tile + tile_offset<S::kDimPieces>(row, piece), rows.data + (real ? row : 0) * rows.step + piece * 8,
               real);
  }
}

// fp32: the three planes, by ordinary loads and stores of four columns.
template <class S>
__device__ void load_tile(ChunkRows<const float> rows, int length, uint32_t tile) {
  constexpr int kQuads = S::kDim / 4;
#pragma unroll 4
  for (int i = 0; i < S::kChunk * kQuads / S::kThreads; ++i) {
    const int index = i * S::kThreads + static_cast<int>(threadIdx.x);
    const int row = index / kQuads, quad = index % kQuads;
    float4 x = make_float4(0.f, 0.f, 0.f, 0.f);
    if (row < length) x = *reinterpret_cast<const float4*>(rows.data + row * rows.step + quad * 4);
    uint32_t front[S::kPlanes], back[S::kPlanes];
    split_bf16(x.x, x.y, front);
    split_bf16(x.z, x.w, back);
    const uint32_t to = tile + tile_offset<S::kDimPieces>(row, quad / 2) + (quad % 2) * 8;
#pragma unroll
    for (int plane = 0; plane < S::kPlanes; ++plane) {
      store_shared(to + plane * S::kTileBytes, front[plane]);
      store_shared(to + plane * S::kTileBytes + 4, back[plane]);
    }
  }
}

template <class S>
__device__ void load_chunk(const LightningPass<typename S::T>& p, int head, const Chunk& chunk, uint32_t stage) {
  if (!chunk.valid || chunk.length == 0) return;
  const auto rows = [&](const HeadRows<const typename S::T>& x, int group) {
    return chunk_rows(x, head / group, chunk.begin, p.tokens, p.reverse);
  };
  if (chunk.emits) load_tile<S>(rows(p.q, p.q_group), chunk.length, stage);
  load_tile<S>(rows(p.k, p.k_group), chunk.length, stage + S::kTensorBytes);
  load_tile<S>(rows(p.v, p.v_group), chunk.length, stage + 2 * S::kTensorBytes);
}

// acc += sum over terms i of a and j of b, b = pairs (b0, b1), with i + j below the longer's number of terms. fp32: the
// smallest first and apart from acc, which is then rounded once; the tensor core's own sums truncate.
template <int kA, int kB>
__device__ void multiply_terms(float (&acc)[4], const uint32_t (&a)[kA][4], const uint32_t (&b0)[kB],
                               const uint32_t (&b1)[kB]) {
  constexpr int kOrders = kA > kB ? kA : kB;
  constexpr bool kApart = kOrders > 2;
  float sum[4] = {};
#pragma unroll
  for (int order = kOrders - 1; order >= 0; --order) {
#pragma unroll
    for (int i = 0; i < kA; ++i) {
      if (order - i >= 0 && order - i < kB) multiply_add(kApart ? sum : acc, a[i], b0[order - i], b1[order - i]);
    }
  }
  for (int i = 0; kApart && i < 4; ++i) acc[i] += sum[i];
}

// Address of this lane's row for load_matrices of rows [row, row + 16) and columns [16 column, 16 column + 16): as
// first operand.
template <int kPieces>
__device__ uint32_t first_operand(uint32_t tile, int lane, int row, int column) {
  return tile + tile_offset<kPieces>(row + lane % 16, 2 * column + lane / 16);
}

// The same block where its rows are the second operand's columns: r[0], r[1] serve rows 0..7, r[2], r[3] rows 8..15.
template <int kPieces>
__device__ uint32_t second_operand(uint32_t tile, int lane, int row, int column) {
  return tile + tile_offset<kPieces>(row + lane % 8 + lane / 16 * 8, 2 * column + lane / 8 % 2);
}

// P = intra e^{-g(i-j)} q_i . k_j for j <= i, split into terms, to shared memory; each warp takes some of the 16 x 16
// blocks.
template <class S>
__device__ void write_scores(const PortableThread& me, float intra, uint32_t stage, uint32_t scores) {
  for (int block = me.warp; block < S::kRowTiles * (S::kRowTiles + 1) / 2; block += S::kWarps) {
    const int row = block >= 6 ? 3 : block >= 3 ? 2 : block >= 1 ? 1 : 0, column = block - row * (row + 1) / 2;
    float acc[2][4] = {};
#pragma unroll
    for (int kk = 0; kk < S::kKeyTiles; ++kk) {
      uint32_t a[S::kPlanes][4], b[S::kPlanes][4], b0[2][S::kPlanes], b1[2][S::kPlanes];
#pragma unroll
      for (int plane = 0; plane < S::kPlanes; ++plane) {
        const uint32_t q = stage + plane * S::kTileBytes, k = q + S::kTensorBytes;
        load_matrices(a[plane], first_operand<S::kDimPieces>(q, me.lane, row * 16, kk));
        load_matrices(b[plane], second_operand<S::kDimPieces>(k, me.lane, column * 16, kk));
        for (int n = 0; n < 2; ++n) b0[n][plane] = b[plane][2 * n], b1[n][plane] = b[plane][2 * n + 1];
      }
      for (int n = 0; n < 2; ++n) multiply_terms(acc[n], a, b0[n], b1[n]);
    }
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const int n = part / 2, half = part % 2;
      const int i = row * 16 + me.g() + half * 8, j = column * 16 + n * 8 + me.t() * 2;
      const float x = j <= i ? acc[n][2 * half] * intra * decay_of(me, i - j) : 0.f;  // masked before the exponential
      const float y = j < i ? acc[n][2 * half + 1] * intra * decay_of(me, i - j - 1) : 0.f;
      uint32_t terms[S::kTerms];
      split_bf16(x, y, terms);
      const uint32_t to = scores + tile_offset<S::kChunkPieces>(i, j / 8) + me.t() * 4;
#pragma unroll
      for (int term = 0; term < S::kTerms; ++term) store_shared(to + term * S::kScoreBytes, terms[term]);
    }
  }
}

// out = inter e^{-g(i+lag)} q H.
template <class S>
__device__ void read_state(S& s, const PortableThread& me, float inter, int lag, uint32_t stage) {
#pragma unroll
  for (int kk = 0; kk < S::kKeyTiles; ++kk) {
    uint32_t b0[2 * S::kValueTiles][S::kTerms], b1[2 * S::kValueTiles][S::kTerms];
#pragma unroll
    for (int n = 0; n < 2 * S::kValueTiles; ++n) {
      const float (&left)[4] = s.state[n / 2][2 * kk];
      const float (&right)[4] = s.state[n / 2][2 * kk + 1];
      split_bf16(left[n % 2 * 2], left[n % 2 * 2 + 1], b0[n]);
      split_bf16(right[n % 2 * 2], right[n % 2 * 2 + 1], b1[n]);
    }
#pragma unroll
    for (int m = 0; m < S::kRowTiles; ++m) {
      uint32_t a[S::kPlanes][4];
#pragma unroll
      for (int plane = 0; plane < S::kPlanes; ++plane) {
        load_matrices(a[plane], first_operand<S::kDimPieces>(stage + plane * S::kTileBytes, me.lane, m * 16, kk));
      }
#pragma unroll
      for (int n = 0; n < 2 * S::kValueTiles; ++n) multiply_terms(s.out[m][n], a, b0[n], b1[n]);
    }
  }
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
    const float above = inter * decay_of(me, m * 16 + me.g() + lag),
                below = inter * decay_of(me, m * 16 + me.g() + 8 + lag);
#pragma unroll
    for (int n = 0; n < 2 * S::kValueTiles; ++n) {
      s.out[m][n][0] *= above, s.out[m][n][1] *= above, s.out[m][n][2] *= below, s.out[m][n][3] *= below;
    }
  }
}

// out += P v.
template <class S>
__device__ void apply_scores(S& s, const PortableThread& me, uint32_t v_tile, uint32_t scores) {
#pragma unroll
  for (int kk = 0; kk < S::kRowTiles; ++kk) {
    uint32_t b0[2 * S::kValueTiles][S::kPlanes], b1[2 * S::kValueTiles][S::kPlanes];
#pragma unroll
    for (int n = 0; n < S::kValueTiles; ++n) {
#pragma unroll
      for (int plane = 0; plane < S::kPlanes; ++plane) {
        uint32_t r[4];
        load_matrices_transposed(r, first_operand<S::kDimPieces>(v_tile + plane * S::kTileBytes, me.lane, kk * 16,
                                                                 me.warp * S::kValueTiles + n));
        b0[2 * n][plane] = r[0], b1[2 * n][plane] = r[1], b0[2 * n + 1][plane] = r[2], b1[2 * n + 1][plane] = r[3];
      }
    }
#pragma unroll
    for (int m = kk; m < S::kRowTiles; ++m) {
      uint32_t a[S::kTerms][4];
#pragma unroll
      for (int term = 0; term < S::kTerms; ++term) {
        load_matrices(a[term], first_operand<S::kChunkPieces>(scores + term * S::kScoreBytes, me.lane, m * 16, kk));
      }
#pragma unroll
      for (int n = 0; n < 2 * S::kValueTiles; ++n) multiply_terms(s.out[m][n], a, b0[n], b1[n]);
    }
  }
}

// This warp's columns of v^T, decayed to the chunk's end and split: the first operand of the state's update.
template <class S>
__device__ void decayed_values(uint32_t (&a)[S::kRowTiles][S::kValueTiles][S::kAddedTerms][4], const PortableThread& me,
                               float added, int to_end, uint32_t v_tile) {
#pragma unroll
  for (int kk = 0; kk < S::kRowTiles; ++kk) {
    float fade[4];  // of tokens 2t, 2t+1, 2t+8, 2t+9
#pragma unroll
    for (int i = 0; i < 4; ++i) fade[i] = added * decay_of(me, to_end - (kk * 16 + me.t() * 2 + i % 2 + i / 2 * 8));
#pragma unroll
    for (int m = 0; m < S::kValueTiles; ++m) {
      uint32_t r[S::kPlanes][4];
#pragma unroll
      for (int plane = 0; plane < S::kPlanes; ++plane) {
        load_matrices_transposed(r[plane], second_operand<S::kDimPieces>(v_tile + plane * S::kTileBytes, me.lane,
                                                                         kk * 16, me.warp * S::kValueTiles + m));
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float x = 0.f, y = 0.f;
#pragma unroll
        for (int plane = S::kPlanes - 1; plane >= 0; --plane) x += low_bf16(r[plane][i]), y += high_bf16(r[plane][i]);
        uint32_t terms[S::kAddedTerms];
        split_bf16(x * fade[i / 2 * 2], y * fade[i / 2 * 2 + 1], terms);
#pragma unroll
        for (int term = 0; term < S::kAddedTerms; ++term) a[kk][m][term][i] = terms[term];
      }
    }
  }
}

// H = e^{-gL} H + sum_j added e^{-g(L-lag-j)} k_j^T v_j. A chunk's sum is made apart and added in one rounding: a
// tensor core's accumulator truncates, and truncations of the state itself would add up over its whole memory.
template <class S>
__device__ void update_state(S& s, const PortableThread& me, float added, int length, int lag, uint32_t stage) {
  const uint32_t k_tile = stage + S::kTensorBytes, v_tile = k_tile + S::kTensorBytes;
  const float fade = decay_of(me, length);
  uint32_t a[S::kRowTiles][S::kValueTiles][S::kAddedTerms][4];
  decayed_values<S>(a, me, added, length - lag, v_tile);
#pragma unroll
  for (int nn = 0; nn < S::kKeyTiles; ++nn) {
    float acc[S::kValueTiles][2][4] = {};
#pragma unroll
    for (int kk = S::kRowTiles - 1; kk >= 0; --kk) {
      uint32_t b0[2][S::kPlanes], b1[2][S::kPlanes];
#pragma unroll
      for (int plane = 0; plane < S::kPlanes; ++plane) {
        uint32_t r[4];
        load_matrices_transposed(r, first_operand<S::kDimPieces>(k_tile + plane * S::kTileBytes, me.lane, kk * 16, nn));
        b0[0][plane] = r[0], b1[0][plane] = r[1], b0[1][plane] = r[2], b1[1][plane] = r[3];
      }
#pragma unroll
      for (int m = 0; m < S::kValueTiles; ++m) {
        for (int n = 0; n < 2; ++n) multiply_terms(acc[m][n], a[kk][m], b0[n], b1[n]);
      }
    }
#pragma unroll
    for (int m = 0; m < S::kValueTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& x = s.state[m][2 * nn + i / 4][i % 4];
        x = fmaf(x, fade, acc[m][i / 4][i % 4]);
      }
    }
  }
}

// The chunk's output to global memory. bf16 goes through this warp's columns of the q tile, which nobody reads any
// more, so that 16 bytes are written at once.
template <class S>
__device__ void store_out(const S& s, const PortableThread& me, ChunkRows<Bf16> rows, int length, uint32_t q_tile) {
  constexpr int kPieces = S::kSlice / 8;
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * S::kValueTiles; ++n) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        store_shared(
            q_tile + tile_offset<S::kDimPieces>(m * 16 + half * 8 + me.g(), me.warp * kPieces + n) + me.t() * 4,
            pack_bf16(s.out[m][n][2 * half], s.out[m][n][2 * half + 1]));
      }
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < S::kChunk * kPieces / 32; ++i) {
    const int index = i * 32 + me.lane, row = index / kPieces, piece = me.warp * kPieces + index % kPieces;
    uint4 word;
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "r"(q_tile + tile_offset<S::kDimPieces>(row, piece))
                 : "memory");
    if (row < length) *reinterpret_cast<uint4*>(rows.data + row * rows.step + piece * 8) = word;
  }
}

template <class S>
__device__ void store_out(const S& s, const PortableThread& me, ChunkRows<float> rows, int length, uint32_t) {
#pragma unroll
  for (int m = 0; m < S::kRowTiles; ++m) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m * 16 + half * 8 + me.g();
      if (row >= length) continue;
      float* const to = rows.data + row * rows.step + me.warp * S::kSlice + me.t() * 2;
#pragma unroll
      for (int n = 0; n < 2 * S::kValueTiles; ++n) {
        *reinterpret_cast<float2*>(to + n * 8) = make_float2(s.out[m][n][2 * half], s.out[m][n][2 * half + 1]);
      }
    }
  }
}

// Calls f(element, offset) for this thread's part of a state [key, value] (transposed: [value, key]) in memory.
template <class S, class F>
__device__ void for_state(S& s, const PortableThread& me, bool transposed, F&& f) {
#pragma unroll
  for (int m = 0; m < S::kValueTiles; ++m) {
#pragma unroll
    for (int n = 0; n < 2 * S::kKeyTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int value = me.warp * S::kSlice + m * 16 + me.g() + i / 2 * 8, key = n * 8 + me.t() * 2 + i % 2;
        f(s.state[m][n][i], transposed ? value * S::kDim + key : key * S::kDim + value);
      }
    }
  }
}

}  // namespace qkr
