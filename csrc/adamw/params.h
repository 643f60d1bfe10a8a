// AdamW with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101), step t = 1, 2, ...:
//   g <- clip_scale g;  w <- w - lr weight_decay w
//   m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
//   w <- w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
// All in fp32, with the roundings of PyTorch's fused CUDA kernel, to the bit.
//
// Note [Split master]
// A bf16 weight keeps its fp32 master as two halves: the weight itself is the upper 16 bits, rounded half up in the bit domain,
// and a signed 16-bit remainder is what was rounded off: high = (bits + 0x8000) >> 16, low = bits - (high << 16). Half up, not
// half to even: with ties to even the remainder could be +32768, which does not fit. Exact for every finite value and for
// infinities (finite values from 0x1.ffp127 on show as an infinite weight, but come back exactly). A NaN stays a NaN in both
// readings, its payload is lost: added to, its bits could carry into the sign and show as -0.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

struct AdamwHyper {
  float lr = 0.f, beta1 = 0.f, beta2 = 0.f, eps = 0.f, weight_decay = 0.f;
  float step = 1.f;  // t
};

struct Fp32Master {
  float* weight = nullptr;  // [count]
};

struct SplitMaster {
  Bf16* high = nullptr;    // [count], the weight
  int16_t* low = nullptr;  // [count]
};

// One tensor. Every array is dense.
template <class Master, class Grad>
struct AdamwTensor {
  Master master;
  const Grad* grad = nullptr;   // [count], float or Bf16
  float* exp_avg = nullptr;     // [count], m
  float* exp_avg_sq = nullptr;  // [count], v
  int64_t count = 0;
};

// What the tensors of a step share.
struct AdamwShared {
  const float* clip_scale = nullptr;  // [1] where the arrays are, or null for 1
  AdamwHyper hyper;
};

template <class Master, class Grad>
struct AdamwParams : AdamwTensor<Master, Grad>, AdamwShared {};

}  // namespace qkr
