// How a few lanes hold one head's row: lane l owns the packs l, l + kLanes, ... of the lower half and their partners
// in the upper half, so RoPE needs no exchange and the norm a sum over kLanes. Shared by both directions.
#pragma once

#include <cstdint>

#include "csrc/core/pack16.cuh"
#include "csrc/core/reduce.cuh"
#include "csrc/qk_norm_rope/launch.h"

namespace qkr {

constexpr int kRowThreads = 128;

// A lane owns kPairs pairs of packs of kPack elements.
template <class T, int kPack_, int kLanes_, int kPairs_>
struct HeadShape {
  using Element = T;
  static constexpr int kPack = kPack_, kLanes = kLanes_, kPairs = kPairs_;
  static constexpr int kRows = kRowThreads / kLanes;  // a block's rows at a time
  static constexpr bool kExact = kPack > 1;           // kPack * kLanes * kPairs is D/2
};

// Calls f(HeadShape).
template <class T, class F>
void with_head_shape(int head_dim, bool aligned, F&& f) {
  constexpr int kPack = kPack16<T>;
  if (aligned && head_dim == 2 * kPack * 4) return f(HeadShape<T, kPack, 4, 1>{});
  if (aligned && head_dim == 2 * kPack * 8) return f(HeadShape<T, kPack, 8, 1>{});
  if (aligned && head_dim == 2 * kPack * 16) return f(HeadShape<T, kPack, 16, 1>{});
  if (aligned && head_dim == 2 * kPack * 32) return f(HeadShape<T, kPack, 32, 1>{});
  return f(HeadShape<T, 1, 32, 4>{});  // any even head_dim up to 256
}

// Queries and keys in one launch: one of them alone may be too little for the device. The first tensor's blocks come
// before the second's, which may be without any.
template <class Params>
struct HeadPair {
  Params part[2];
  unsigned part_blocks[2];

  unsigned blocks() const { return part_blocks[0] + part_blocks[1]; }

  struct Share {
    Params p;
    unsigned block, blocks;  // which of how many on this part
  };
  // Chosen by a branch and not by an index: an indexed read of the arguments would stand before the first load of a row.
  __device__ Share part_of_block() const {
    Share share{part[0], blockIdx.x, part_blocks[0]};
    if (blockIdx.x >= part_blocks[0]) share = {part[1], blockIdx.x - part_blocks[0], part_blocks[1]};
    return share;
  }
};

template <class Params>
HeadPair<Params> head_pair(const Params& first, const Params& second, int64_t first_blocks, int64_t second_blocks) {
  return {{first, second}, {static_cast<unsigned>(first_blocks), static_cast<unsigned>(second_blocks)}};
}

template <class Params>
int64_t head_rows(const Params& p) {
  return p.tokens * p.heads;
}

// One kernel serves both: equal head_dim, both with a norm or both without, and not too large. A second tensor of no
// rows may be anything.
template <class Params>
bool is_pair(const Params& first, const Params& second) {
  const auto fits = [](const Params& p) {
    return p.head_dim <= kQkNormRopeMaxHeadDim && p.head_dim % 2 == 0 && head_rows(p) <= kQkNormRopeMaxRows;
  };
  const bool alone = head_rows(second) == 0;
  const bool alike = first.head_dim == second.head_dim && (first.w == nullptr) == (second.w == nullptr);
  return fits(first) && (alone || (fits(second) && alike));
}

// One row's numbers in a lane: the halves of its pairs.
template <class Shape>
struct HeadRow {
  float low[Shape::kPairs][Shape::kPack], high[Shape::kPairs][Shape::kPack];
};

// f(i, pack) for each pair of packs of the calling thread: `pack` in the lower half, D/2 elements further in the upper.
template <class Shape, class F>
__device__ inline void for_own_pairs(int head_dim, F&& f) {
  const int lane = threadIdx.x % Shape::kLanes;
#pragma unroll
  for (int i = 0; i < Shape::kPairs; ++i) {
    const int pack = lane + i * Shape::kLanes;
    if (Shape::kExact || pack < head_dim / 2) f(i, pack);
  }
}

template <class Shape>
__device__ inline void store_halves(typename Shape::Element* row, int head_dim, const HeadRow<Shape>& x) {
  for_own_pairs<Shape>(head_dim, [&](int i, int pack) {
    store_floats<Shape::kPack>(row, pack, x.low[i]);
    store_floats<Shape::kPack>(row + head_dim / 2, pack, x.high[i]);
  });
}

// f(low, high) of each element of the row.
template <class Shape, class F>
__device__ inline void for_each_pair(int head_dim, HeadRow<Shape>& x, F&& f) {
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) f(x.low[i][j], x.high[i][j]);
  });
}

// Both halves as they lie in memory: loads that are under way before anything waits for one of them.
template <class Shape>
struct RawHeadRow {
  using Pack = RawPack<typename Shape::Element, Shape::kPack>;
  Pack low[Shape::kPairs], high[Shape::kPairs];
};

template <class Shape>
__device__ inline void load_raw_halves(const typename Shape::Element* low, const typename Shape::Element* high,
                                       int head_dim, RawHeadRow<Shape>& raw) {
  for_own_pairs<Shape>(head_dim, [&](int i, int pack) {
    raw.low[i] = load_raw<Shape::kPack>(low, pack);
    raw.high[i] = load_raw<Shape::kPack>(high, pack);
  });
}

template <class Shape>
__device__ inline void unpack(const RawHeadRow<Shape>& raw, int head_dim, HeadRow<Shape>& x) {
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
    raw.low[i].unpack(x.low[i]);
    raw.high[i].unpack(x.high[i]);
  });
}

// The sum over a row of products of a and b, in all its lanes.
template <class Shape>
__device__ inline float dot(int head_dim, const HeadRow<Shape>& a, const HeadRow<Shape>& b) {
  float sum = 0.f;
  for_own_pairs<Shape>(head_dim, [&](int i, int) {
#pragma unroll
    for (int j = 0; j < Shape::kPack; ++j) sum += a.low[i][j] * b.low[i][j] + a.high[i][j] * b.high[i][j];
  });
  return lanes_sum<Shape::kLanes>(sum);
}

}  // namespace qkr
