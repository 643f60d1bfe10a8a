#include <algorithm>

#include "csrc/core/pack16.cuh"
#include "csrc/lightning/mma.cuh"
#include "csrc/needle_attention/launch.h"
#include "csrc/needle_attention/shares.cuh"

namespace qkr {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr float kLog2E = 1.44269504088896f;

// What all kernels are told beside the params.
struct Split {
  int64_t span = 0, splits = 0;  // keys of a block, a multiple of 128; blocks along the keys
  int64_t group = 0, rows = 0;   // heads of a KV head; group * queries
  int64_t row_blocks = 0;        // blocks along the rows
};

// Of blocks that run together, those of one span lie side by side, KV heads first: K's rows are then read whole, and what another
// block of rows needs again is still in L2.
struct BlockPlace {
  int64_t kv, row_block, split;
  __device__ BlockPlace(int64_t kv_heads, int64_t row_blocks)
      : kv(blockIdx.x % kv_heads), row_block(blockIdx.x / kv_heads % row_blocks), split(blockIdx.x / kv_heads / row_blocks) {}
};

// Of products whose sign the queries have taken over, to exponents of base 2. Not 0, which would make a NaN of a masked key.
__device__ inline float exponent_scale(float scale) { return fmaxf(fabsf(scale) * kLog2E, 1e-30f); }

// ---- any head size, fp32 or bf16: a lane owns a key and meets it with kRows rows

// A warp's lanes read rows of K each for itself, 16 bytes or one element at a time; a line that one load opens serves the
// next ones from L1. The queries are broadcast from shared memory.
template <class T, int kPack, int kRows>
__global__ void __launch_bounds__(kThreads) few_rows_kernel(NeedleAttentionParams<T> p, Split split, float* room) {
  extern __shared__ float q_rows[];  // [kRows, D]
  __shared__ RowLimits limits[kRows];
  __shared__ AttentionShare of_warp[kWarps][kRows];
  const BlockPlace place(p.kv_heads, split.row_blocks);
  const int64_t first_row = place.row_block * kRows;
  const int dim = static_cast<int>(p.head_dim), warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  for (int i = threadIdx.x; i < kRows * dim; i += kThreads) {
    const int64_t row = first_row + i / dim, query = row / split.group, head = place.kv * split.group + row % split.group;
    const float value = row < split.rows ? to_float(p.q[query * p.q_row + head * p.q_head + i % dim]) : 0.f;
    q_rows[i] = p.scale < 0.f ? -value : value;
  }
  if (threadIdx.x < kRows) limits[threadIdx.x] = row_limits(p, first_row + threadIdx.x, split.group);
  __syncthreads();
  AttentionShare share[kRows];
  const T* const keys = p.k + place.kv * p.k_head;
  const float scale = exponent_scale(p.scale);
  const int64_t begin = place.split * split.span, end = min(p.keys, begin + split.span);
  for (int64_t key = begin + threadIdx.x; key < end; key += kThreads) {
    float x[kRows] = {};
    for (int pack = 0; pack < dim / kPack; ++pack) {
      float k[kPack];
      load_floats<kPack>(keys + key * p.k_row, pack, k);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const float* const q = q_rows + r * dim + pack * kPack;
        float sum = k[0] * q[0];  // of the pack by itself: sums of sums round less
#pragma unroll
        for (int j = 1; j < kPack; ++j) sum = fmaf(k[j], q[j], sum);
        x[r] += sum;
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (key > limits[r].last) continue;
      share[r].raise(x[r] * scale);
      const float e = power_of_2(fmaf(x[r], scale, -share[r].top));
      share[r].all += e;
      if (limits[r].begin <= key && key < limits[r].end) share[r].part += e;
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    share[r].template add_lanes<1, 16>();
    if (lane == 0) of_warp[warp][r] = share[r];
  }
  __syncthreads();
  const int64_t row = first_row + threadIdx.x;
  if (threadIdx.x >= kRows || row >= split.rows) return;
  AttentionShare sum = of_warp[0][threadIdx.x];
  for (int w = 1; w < kWarps; ++w) sum.add(of_warp[w][threadIdx.x]);
  *share_of(room, place.split, place.kv, p.kv_heads, row, split.rows) = sum;
}

// ---- bf16 heads of 32 kSteps elements: products on the tensor cores, keys as the 16 rows of a and queries as the 8 columns of b

constexpr int kKeyTiles = 2, kTileKeys = 16 * kKeyTiles;  // of one turn of a warp
constexpr int kLaneKeys = 2 * kKeyTiles;                  // that a lane sees of a row: every eighth

// The order in which a product runs over the head's elements is free as long as both sides keep it: of 32 neighbours, lane
// (g, t) takes 8t .. 8t+7 with one load of 16 bytes, the first half for one product of depth 16, the other for the next.
template <int kSteps>
struct KeyTile {
  uint4 raw[kKeyTiles][2][kSteps];  // keys g and g + 8 of each 16

  // Keys from `count` on are zeros.
  __device__ void load(const Bf16* keys, int64_t k_row, int64_t first, int64_t count, int g, int t) {
#pragma unroll
    for (int i = 0; i < kKeyTiles; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t key = first + 16 * i + 8 * half + g;
        const Bf16* const row = keys + key * k_row + 8 * t;
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
          raw[i][half][s] = key < count ? __ldg(reinterpret_cast<const uint4*>(row + 32 * s)) : make_uint4(0, 0, 0, 0);
        }
      }
    }
  }

  __device__ void multiply(float (&c)[kKeyTiles][4], const uint4* queries) const {  // queries: [kSteps, 32 lanes]
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint4 b = queries[s * kWarp];
#pragma unroll
      for (int i = 0; i < kKeyTiles; ++i) {
        const uint4 low = raw[i][0][s], high = raw[i][1][s];
        multiply_add(c[i], {low.x, high.x, low.y, high.y}, b.x, b.y);
        multiply_add(c[i], {low.z, high.z, low.w, high.w}, b.z, b.w);
      }
    }
  }
};

// The rows of a block: each one's limits, and what holds for all of them.
template <int kRows>
struct RowRoom {
  RowLimits row[kRows];
  int all_see, any_sees, any_begins, any_ends;  // last keys and bounds over the rows that are there

  template <class T>
  __device__ void fill(const NeedleAttentionParams<T>& p, int64_t first_row, const Split& split) {
    if (threadIdx.x >= kWarp) return;
    int least = 0x7fffffff, most = -1, begin = 0x7fffffff, end = 0;
    for (int r = threadIdx.x; r < kRows; r += kWarp) {
      const RowLimits limits = row[r] = row_limits(p, first_row + r, split.group);
      if (first_row + r >= split.rows) continue;
      least = min(least, limits.last), most = max(most, limits.last);
      if (limits.begin < limits.end) begin = min(begin, limits.begin), end = max(end, limits.end);
    }
    all_see = __reduce_min_sync(0xffffffffu, least);
    any_sees = __reduce_max_sync(0xffffffffu, most);
    any_begins = __reduce_min_sync(0xffffffffu, begin);
    any_ends = __reduce_max_sync(0xffffffffu, end);
  }
};

// Products with the keys `first`, first + 8, ... to a row's share; the row sees all of them where `mask` is null, and none counts
// where `count` is.
__device__ inline void add_keys(AttentionShare& own, float (&x)[kLaneKeys], float scale, int first, const RowLimits* mask,
                                const RowLimits* count) {
  if (mask != nullptr) {
#pragma unroll
    for (int i = 0; i < kLaneKeys; ++i) {
      if (first + 8 * i > mask->last) x[i] = -INFINITY;
    }
  }
  float top = x[0];
#pragma unroll
  for (int i = 1; i < kLaneKeys; ++i) top = fmaxf(top, x[i]);
  own.raise(top * scale);
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < kLaneKeys; ++i) x[i] = power_of_2(fmaf(x[i], scale, -own.top));
#pragma unroll
  for (int i = 0; i < kLaneKeys; ++i) sum += x[i];
  own.all += sum;
  if (count == nullptr) return;
#pragma unroll
  for (int i = 0; i < kLaneKeys; ++i) {
    if (count->begin <= first + 8 * i && first + 8 * i < count->end) own.part += x[i];
  }
}

// A block owns kColumns * 8 rows of one KV head and a span of its keys, of which warp w takes every fourth tile. Lane (g, t)
// keeps a share of rows 2t and 2t + 1 of each eight, over the keys that it meets in its fragment of the products.
template <int kSteps, int kColumns>
__global__ void __launch_bounds__(kThreads) mma_kernel(NeedleAttentionParams<Bf16> p, Split split, float* room) {
  constexpr int kRows = 8 * kColumns;
  __shared__ uint4 queries[kColumns][kSteps][kWarp];  // as lane (g, t) reads them: row g of eight, elements 32 s + 8 t ...
  __shared__ RowRoom<kRows> rows;
  __shared__ AttentionShare of_warp[kWarps][kRows];
  const BlockPlace place(p.kv_heads, split.row_blocks);
  const int64_t first_row = place.row_block * kRows;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const uint32_t flip = p.scale < 0.f ? 0x80008000u : 0u;  // so that a larger product is a larger exponent
  for (int i = threadIdx.x; i < kRows * kSteps * 4; i += kThreads) {
    const int r = i / (kSteps * 4), step = i / 4 % kSteps, piece = i % 4;
    const int64_t row = first_row + r, query = row / split.group, head = place.kv * split.group + row % split.group;
    const Bf16* const from = p.q + query * p.q_row + head * p.q_head + 32 * step + 8 * piece;
    uint4 q = row < split.rows ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
    q.x ^= flip, q.y ^= flip, q.z ^= flip, q.w ^= flip;
    queries[r / 8][step][r % 8 * 4 + piece] = q;
  }
  rows.fill(p, first_row, split);
  __syncthreads();

  AttentionShare share[kColumns][2];
  const Bf16* const keys = p.k + place.kv * p.k_head;
  const float scale = exponent_scale(p.scale);
  const int64_t begin = place.split * split.span;
  const int64_t end = min(begin + split.span, static_cast<int64_t>(rows.any_sees) + 1);
  for (int64_t first = begin + warp * kTileKeys; first < end; first += kWarps * kTileKeys) {
    KeyTile<kSteps> tile;
    tile.load(keys, p.k_row, first, p.keys, g, t);
    const bool masked = first + kTileKeys - 1 > rows.all_see;
    const bool counted = first < rows.any_ends && first + kTileKeys > rows.any_begins;
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      float c[kKeyTiles][4] = {};
      tile.multiply(c, &queries[column][0][lane]);
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        float x[kLaneKeys];
#pragma unroll
        for (int i = 0; i < kLaneKeys; ++i) x[i] = c[i / 2][i % 2 * 2 + side];
        const RowLimits* const limits = &rows.row[8 * column + 2 * t + side];
        add_keys(share[column][side], x, scale, static_cast<int>(first) + g, masked ? limits : nullptr, counted ? limits : nullptr);
      }
    }
  }
#pragma unroll
  for (int column = 0; column < kColumns; ++column) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      share[column][side].template add_lanes<4, 16>();
      if (g == 0) of_warp[warp][8 * column + 2 * t + side] = share[column][side];
    }
  }
  __syncthreads();
  for (int r = threadIdx.x; r < kRows && first_row + r < split.rows; r += kThreads) {
    AttentionShare sum = of_warp[0][r];
    for (int w = 1; w < kWarps; ++w) sum.add(of_warp[w][r]);
    *share_of(room, place.split, place.kv, p.kv_heads, first_row + r, split.rows) = sum;
  }
}

// ---- all shares of a row to its result: a warp a row

template <class T>
__global__ void __launch_bounds__(kThreads) combine_kernel(NeedleAttentionParams<T> p, Split split, float* room) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (index >= p.kv_heads * split.rows) return;
  const int64_t kv = index / split.rows, row = index % split.rows;
  AttentionShare sum;
  for (int64_t s = threadIdx.x % kWarp; s < split.splits; s += kWarp) sum.add(*share_of(room, s, kv, p.kv_heads, row, split.rows));
  sum.add_lanes<1, 16>();
  if (threadIdx.x % kWarp != 0) return;
  const int64_t query = row / split.group, head = kv * split.group + row % split.group;
  p.mass[head * p.queries + query] = row_limits(p, row, split.group).last < 0 ? 0.f : sum.part / sum.all;
}

// ---- which, and how many

template <class T>
bool mma_serves(const NeedleAttentionParams<T>&) {
  return false;
}
template <>
bool mma_serves(const NeedleAttentionParams<Bf16>& p) {
  return (p.head_dim == 64 || p.head_dim == 128) && is_16_byte_aligned(p.q, p.q_row) && is_16_byte_aligned(p.q, p.q_head) &&
         is_16_byte_aligned(p.k, p.k_row) && is_16_byte_aligned(p.k, p.k_head);
}

// Rows of one block.
template <class T>
int64_t rows_of_block(const NeedleAttentionParams<T>& p, int64_t rows) {
  if (!mma_serves(p)) return rows <= 8 || p.head_dim > 512 ? 8 : 16;  // 32 KB of shared memory
  return rows <= 16 ? 16 : rows <= 32 ? 32 : 64;  // with 8 the compiler keeps fewer loads in flight, which costs more than it saves
}

template <class T>
Split split_of(const NeedleAttentionParams<T>& p) {
  constexpr int64_t kBlocks = 16 * 132;  // enough for an H200's SMs to end together; a block still has many keys
  Split split;
  split.group = p.heads / p.kv_heads;
  split.rows = split.group * p.queries;
  const int64_t block_rows = rows_of_block(p, split.rows);
  split.row_blocks = (split.rows + block_rows - 1) / block_rows;
  split.span = std::max<int64_t>(128, (p.keys * p.kv_heads * split.row_blocks / kBlocks + 127) / 128 * 128);
  split.splits = std::max<int64_t>(1, (p.keys + split.span - 1) / split.span);
  return split;
}

template <int kSteps>
void launch_mma(const NeedleAttentionParams<Bf16>& p, const Split& split, unsigned grid, float* room, cudaStream_t stream) {
  const int64_t rows = rows_of_block(p, split.rows);
  if (rows == 16) mma_kernel<kSteps, 2><<<grid, kThreads, 0, stream>>>(p, split, room);
  if (rows == 32) mma_kernel<kSteps, 4><<<grid, kThreads, 0, stream>>>(p, split, room);
  if (rows == 64) mma_kernel<kSteps, 8><<<grid, kThreads, 0, stream>>>(p, split, room);
}

template <int kRows, class T>
void launch_few_rows(const NeedleAttentionParams<T>& p, const Split& split, unsigned grid, float* room, cudaStream_t stream) {
  const size_t shared = kRows * static_cast<size_t>(p.head_dim) * sizeof(float);
  const bool packs = p.head_dim % kPack16<T> == 0 && is_16_byte_aligned(p.k, p.k_row) && is_16_byte_aligned(p.k, p.k_head);
  if (packs) {
    few_rows_kernel<T, kPack16<T>, kRows><<<grid, kThreads, shared, stream>>>(p, split, room);
  } else {
    few_rows_kernel<T, 1, kRows><<<grid, kThreads, shared, stream>>>(p, split, room);
  }
}

template <class T>
void launch_shares(const NeedleAttentionParams<T>& p, const Split& split, float* room, cudaStream_t stream) {
  const auto grid = static_cast<unsigned>(split.splits * split.row_blocks * p.kv_heads);
  if constexpr (sizeof(T) == 2) {
    if (mma_serves(p)) {
      p.head_dim == 64 ? launch_mma<2>(p, split, grid, room, stream) : launch_mma<4>(p, split, grid, room, stream);
      return;
    }
  }
  if (rows_of_block(p, split.rows) == 8) {
    launch_few_rows<8>(p, split, grid, room, stream);
  } else {
    launch_few_rows<16>(p, split, grid, room, stream);
  }
}

}  // namespace

template <class T>
int64_t needle_attention_room(const NeedleAttentionParams<T>& p) {
  const Split split = split_of(p);
  return split.splits * p.kv_heads * split.rows * static_cast<int64_t>(sizeof(AttentionShare) / sizeof(float));
}

template <class T>
cudaError_t launch_needle_attention(const NeedleAttentionParams<T>& p, float* room, cudaStream_t stream) {
  if (p.queries == 0 || p.heads == 0) return cudaSuccess;  // an empty grid is a launch error
  if (p.head_dim < 1 || p.head_dim > kNeedleAttentionMaxDim) return cudaErrorInvalidValue;
  const Split split = split_of(p);
  launch_shares(p, split, room, stream);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  const int64_t results = p.kv_heads * split.rows;
  combine_kernel<<<static_cast<unsigned>((results + kWarps - 1) / kWarps), kThreads, 0, stream>>>(p, split, room);
  return cudaGetLastError();
}

template int64_t needle_attention_room(const NeedleAttentionParams<float>&);
template int64_t needle_attention_room(const NeedleAttentionParams<Bf16>&);
template cudaError_t launch_needle_attention(const NeedleAttentionParams<float>&, float*, cudaStream_t);
template cudaError_t launch_needle_attention(const NeedleAttentionParams<Bf16>&, float*, cudaStream_t);

}  // namespace qkr
