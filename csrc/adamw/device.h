// The update of one element, shared by the CPU loop and the kernel. Every fused multiply-add is spelled out, so that neither
// compiler has a choice left in the rounding.
#pragma once

#include <cmath>

#include "csrc/adamw/params.h"

namespace qkr {

// What all elements of a step share.
struct AdamwScalars {
  float beta1, beta2, eps;
  float decay;  // lr * weight_decay
  bool decays;
  float step_size;              // lr / (1 - beta1^t)
  float bias_correction2_sqrt;  // sqrt(1 - beta2^t)
};

QKR_HOST_DEVICE inline AdamwScalars adamw_scalars(const AdamwHyper& h) {
  AdamwScalars s;
  s.beta1 = h.beta1;
  s.beta2 = h.beta2;
  s.eps = h.eps;
  s.decay = h.lr * h.weight_decay;
  s.decays = h.weight_decay != 0.f;
  s.step_size = h.lr / (1.f - powf(h.beta1, h.step));
  s.bias_correction2_sqrt = sqrtf(1.f - powf(h.beta2, h.step));
  return s;
}

struct AdamwElement {
  float weight, exp_avg, exp_avg_sq;
};

QKR_HOST_DEVICE inline AdamwElement adamw_update(const AdamwScalars& s, float grad, AdamwElement e) {
  if (s.decays) e.weight = fmaf(-s.decay, e.weight, e.weight);
  const float grad_sq = grad * grad;
  e.exp_avg = fmaf(s.beta1, e.exp_avg, fmaf(-s.beta1, grad, grad));
  e.exp_avg_sq = fmaf(s.beta2, e.exp_avg_sq, fmaf(-s.beta2, grad_sq, grad_sq));
  const float denominator = sqrtf(e.exp_avg_sq) / s.bias_correction2_sqrt + s.eps;
  e.weight -= s.step_size * e.exp_avg / denominator;
  return e;
}

// Note [Split master]. The halves of one value; two functions without a struct between them, which keeps the CPU loop vectorised.
QKR_HOST_DEVICE inline bool is_nan_bits(uint32_t bits) { return (bits & 0x7fffffffu) > 0x7f800000u; }

QKR_HOST_DEVICE inline uint16_t master_high_bits(uint32_t bits) {
  const uint32_t quiet = (bits >> 16 & 0x8000u) | 0x7fc0u;
  return static_cast<uint16_t>(is_nan_bits(bits) ? quiet : (bits + 0x8000u) >> 16);
}

QKR_HOST_DEVICE inline int16_t master_low_bits(uint32_t bits) {
  // bits - (high << 16) is in [-32768, 32767], so its lower half says all of it: that of `bits`, since high has none
  return static_cast<int16_t>(static_cast<uint16_t>(is_nan_bits(bits) ? 0u : bits));
}

QKR_HOST_DEVICE inline float join_master_value(Bf16 high, int16_t low) {
  return float_of((static_cast<uint32_t>(high.bits) << 16) + static_cast<uint32_t>(static_cast<int32_t>(low)));
}

}  // namespace qkr
