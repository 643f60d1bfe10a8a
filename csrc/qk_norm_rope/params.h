// What happens to queries and keys between their projection and attention, for each head's row x [D], all steps
// optional:
//   n = round(x / rms(x)),  z = n w                       QK-norm, rms(v) = sqrt(mean(v^2) + eps)
//   u_j = z_j cos_j - z_{j+D/2} sin_j,                    RoPE, half-split pairs (j, j + D/2), j < D/2
//   u_{j+D/2} = z_{j+D/2} cos_j + z_j sin_j
//   y = u factor                                          one factor a token (logits scaling by position)
// fp32 arithmetic; n, z, both products and the sum of RoPE, and y are rounded to the tensors' dtype, as in the
// official models.
//
// Gradients, with r = 1 / rms(x), m = x r: du = dy factor, dz = RoPE by -angle of du, dw = sum of dz n, g = dz w,
// dx = r (g - m mean(g m)). cos, sin and factor are constants.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

// T: Bf16 or float. A row's elements are neighbours; strides in elements; outputs are dense.
template <class T>
struct QkNormRopeParams {
  const T* x = nullptr;           // [N, H, D]
  const T* w = nullptr;           // [D] or null
  const T* cos = nullptr;         // [N, D/2] dense, or null
  const T* sin = nullptr;         // [N, D/2] dense, with cos
  const float* factor = nullptr;  // [N] or null
  T* y = nullptr;                 // [N, H, D]
  int64_t tokens = 0, token_stride = 0, head_stride = 0;
  int heads = 0, head_dim = 0;
  float eps = 0.f;
};

template <class T>
struct QkNormRopeGradParams {
  const T* dy = nullptr;          // [N, H, D]
  const T* x = nullptr;           // [N, H, D]; read only where there is a norm
  const T* w = nullptr;           // [D] or null
  const T* cos = nullptr;         // [N, D/2] or null
  const T* sin = nullptr;         // [N, D/2]
  const float* factor = nullptr;  // [N] or null
  T* dx = nullptr;                // [N, H, D]
  float* partials = nullptr;      // [qk_norm_rope_partials(...), D], with w: sums for dw, to be added up
  int64_t tokens = 0, dy_token_stride = 0, dy_head_stride = 0, x_token_stride = 0, x_head_stride = 0;
  int heads = 0, head_dim = 0;
  float eps = 0.f;
};

}  // namespace qkr
