// Rotary position embedding: half-split pairs (j, j + D/2), cos and sin computed in fp32 and rounded to the model dtype, as the
// official classes of all families do (transformers 4.57, modeling_rope_utils.py).
#pragma once

#include <ATen/core/Tensor.h>

#include "trainer/model/architecture.h"

namespace qkr {

// [D/2] fp32 on the CPU: theta^(-2j/D), changed by the scaling rule. *factor multiplies cos and sin (yarn; else 1).
at::Tensor rope_frequencies(double theta, int64_t dim, const RopeScaling& scaling, double* factor);

// cos and sin of every token's angles, for qk_norm_rope.
struct RotaryTable {
  at::Tensor cos, sin;  // [N, D/2], model dtype
};

class Rotary {
 public:
  Rotary() = default;
  Rotary(const Architecture& architecture, at::Device device);

  // positions [N] int64 → table for those tokens.
  RotaryTable table(const at::Tensor& positions, at::ScalarType dtype) const;

 private:
  at::Tensor frequencies_;  // [D/2] fp32
  double factor_ = 1.0;
};

}  // namespace qkr
