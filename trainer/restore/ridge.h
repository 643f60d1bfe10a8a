// The ridge corrections of qk-pro: K as it was, Q moved towards what it was as far as K can see. fp64 throughout.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

struct RidgeResult {
  at::Tensor q;       // [Q rows, columns] fp64, before it is rounded
  at::Tensor lambda;  // [groups] fp64: ridge * trace(G) / dim(G), 1 where G = 0
};

// Per group of rows (all heads as one, or a KV head with the Q heads that read it), with D = Q_pre - Q_post and G = K K^T:
//   Q = Q_post + D P,  P = K^T (G + lambda I)^-1 K: the ridge projector on the input directions that K reads.
// ridge -> infinity: Q_post. Not Q_pre for any ridge, unless the rows of K span the input. An element that nothing moves keeps
// its value. Throws Error (run failed) if G + lambda I has no Cholesky factor.
RidgeResult ridge_by_input(const at::Tensor& q_pre, const at::Tensor& q_post,  // [H D, d] fp64
                           const at::Tensor& k_pre,                            // [KV D, d] fp64
                           int64_t groups, double ridge);

// Per KV head g, D x D on the head side, for each Q head that reads it:
//   Q = Q_post + F (Q_pre - Q_post),  F = G (G + lambda I)^-1,  G = K_g K_g^T.
// ridge 0: Q_pre exactly. ridge -> infinity: Q_post. A bias is one more column of all three.
RidgeResult ridge_by_head(const at::Tensor& q_pre, const at::Tensor& q_post, const at::Tensor& k_pre, int64_t kv_heads, double ridge);

}  // namespace qkr
