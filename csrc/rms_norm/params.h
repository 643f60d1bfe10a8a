// RMSNorm over the last axis (Zhang & Sennrich 2019, arXiv 1910.07467) with what stands beside it in a decoder:
//   h[n, :] = x[n, :] (+ added[n, :], rounded)          rms(v) = sqrt(mean(v^2) + eps)
//   y[n, d] = round(h[n, d] / rms(h[n, :])) * w[d]      (* round(sigmoid(gate[n, d])))
// All arithmetic in fp32; every intermediate that the official models keep in the tensors' dtype is rounded to it: h,
// the normed value before the weight meets it, the weighted value before the gate does, and the gate's sigmoid.
//
// Gradients, with r = 1 / rms(h), m = h r, s = sigmoid(gate), t = round(m) w:
//   dt = dy (* s),   dgate = dy t s (1 - s),   dw = sum over n of dt round(m),   g = dt w
//   dh = r (g - m mean(g m)) (+ dsum)
// where dsum is what reaches h by other ways. r is formed anew: the row is in registers anyway.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// T: Bf16 or float. Rows are `x_stride` (and so on) elements apart, their elements neighbours; outputs are dense.
template <class T>
struct RmsNormParams {
  const T* x = nullptr;      // [N, D]
  const T* added = nullptr;  // [N, D] or null
  const T* gate = nullptr;   // [N, D] or null; not with `added`
  const T* w = nullptr;      // [D]
  T* y = nullptr;            // [N, D]
  T* sum = nullptr;          // [N, D], h; with `added`
  int64_t rows = 0, cols = 0, x_stride = 0, added_stride = 0, gate_stride = 0;
  float eps = 0.f;
};

template <class T>
struct RmsNormGradParams {
  const T* dy = nullptr;      // [N, D]
  const T* dsum = nullptr;    // [N, D] or null
  const T* h = nullptr;       // [N, D]
  const T* gate = nullptr;    // [N, D] or null; not with dsum
  const T* w = nullptr;       // [D]
  T* dh = nullptr;            // [N, D]
  T* dgate = nullptr;         // [N, D], with `gate`
  float* partials = nullptr;  // [rms_norm_partials(N, D), D]: sums for dw, to be added up
  int64_t rows = 0, cols = 0, dy_stride = 0, dsum_stride = 0, h_stride = 0, gate_stride = 0;
  float eps = 0.f;
};

}  // namespace qkr
