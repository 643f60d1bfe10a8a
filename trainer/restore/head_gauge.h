// procrustes-head: the rotation of a KV head's coordinates, shared by its K head and all its Q heads, that best explains what SFT
// did to them, among those that cannot move an attention logit.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "ops/polar.h"
#include "trainer/core/mixer_layer.h"

namespace qkr {

// What leaves the logits of a layer alone, by coordinate of a head.
//   no RoPE: orthogonal within each class of coordinates whose QK-norm gains have the same product g_q g_k (all of them without
//            QK-norm); a class of one coordinate leaves a sign
//   RoPE:    a phase for each pair (j, j + D/2), and under QK-norm only where q's two gains are equal and k's too, else a sign
struct HeadGauge {
  bool rope = false;
  at::Tensor gain_class;      // [D] int64 on the CPU, no RoPE: coordinates of one class have the same number
  at::Tensor pair_is_free;    // [D/2] bool on the CPU, RoPE
  int64_t free_coordinates;   // of D: those that have more than a sign
};

// g_q, g_k: [D] gains that the layer has after the restore; undefined: no QK-norm.
HeadGauge head_gauge(const MixerLayer& layer, const at::Tensor& g_q, const at::Tensor& g_k);

// Why the layer has no gauge to align: "" if it has one.
std::string gauge_refusal(const MixerLayer& layer, const at::Tensor& g_q, const at::Tensor& g_k);

struct HeadAlignment {
  at::Tensor a;  // [KV, D, D] fp64 orthogonal
  std::optional<PolarCertificate> certificate;  // of the matrix with the largest gap bound; none where all is closed form
};

// argmin over the gauge of ||A Q_pre - Q_post||^2 + ||A K_pre - K_post||^2 per KV head; fp64, a bias is one more column.
HeadAlignment align_heads(const at::Tensor& q_pre, const at::Tensor& q_post,  // [H D, columns]
                          const at::Tensor& k_pre, const at::Tensor& k_post,  // [KV D, columns]
                          int64_t kv_heads, const HeadGauge& gauge);

// A applied to every head of w [heads D, columns] that belongs to a group of a.
at::Tensor turn_heads(const at::Tensor& a, const at::Tensor& w);

}  // namespace qkr
