// Two products with a gate, element by element; fp32 arithmetic, the activation rounded to the tensors' dtype before it
// multiplies, as in the official models. s = 1 / (1 + e^-gate).
//   SwiGLU (Shazeer 2020, arXiv 2002.05202):
//                  y = round(gate s) x,   dx = dy round(gate s),  dgate = dy x s (1 + gate (1 - s))
//   sigmoid gate:  y = round(s) x,        dx = dy round(s),       dgate = dy x s (1 - s)
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

enum class GateKind { kSwiglu, kSigmoid };

// T: Bf16 or float. Rows are `x_stride` (and so on) elements apart, their elements neighbours; outputs are dense.
template <class T>
struct GateParams {
  const T* gate = nullptr;  // [N, D]
  const T* x = nullptr;     // [N, D]
  T* y = nullptr;           // [N, D]
  int64_t rows = 0, cols = 0, gate_stride = 0, x_stride = 0;
  GateKind kind = GateKind::kSwiglu;
};

template <class T>
struct GateGradParams {
  const T* dy = nullptr;    // [N, D]
  const T* gate = nullptr;  // [N, D]
  const T* x = nullptr;     // [N, D]
  T* dgate = nullptr;       // [N, D]
  T* dx = nullptr;          // [N, D]
  int64_t rows = 0, cols = 0, dy_stride = 0, gate_stride = 0, x_stride = 0;
  GateKind kind = GateKind::kSwiglu;
};

}  // namespace qkr
