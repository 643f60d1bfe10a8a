// Where the samples of a packed row begin and end, and at which absolute position each token stands.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace qkr {

// S segments end to end, N tokens in all. Every mixer resets at a boundary and positions count from each segment's start
// (a continued sequence: from `past`).
struct Segments {
  std::vector<int64_t> cu_seqlens;  // [S + 1], host
  at::Tensor cu_seqlens_device;     // [S + 1] int32, for variable-length attention kernels
  at::Tensor positions;             // [N] int64
  int64_t longest = 0;
  int64_t past = 0;  // tokens of the one sequence that are already in the cache

  int64_t count() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
  int64_t tokens() const { return cu_seqlens.back(); }

  // `cu_seqlens` must begin with 0 and not decrease; empty segments are allowed.
  static Segments packed(std::vector<int64_t> cu_seqlens, at::Device device);
  // `count` more tokens of a sequence of which `past` are in the cache.
  static Segments continued(int64_t past, int64_t count, at::Device device);
  // One token of each of B sequences, at the positions [B] int64; read by a step over a BatchCache alone.
  static Segments stepped(at::Tensor positions);
};

}  // namespace qkr
