// The language-model head and its loss without the logits of a whole row: they exist for a slice of labelled positions at a time.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

// hidden [N, D], head [V, D], targets [N] int64 with -100 where there is no label →
//   scale * sum over labelled n of ( logsumexp(z_n) - z_n[target_n] ),  z = hidden head^T in the model dtype, the rest in fp32.
// fp32 scalar, differentiable in hidden and head. Exact: no entry of the softmax is dropped. Unlabelled rows cost nothing.
// The gradients are formed in the forward, slice by slice, head's accumulated in fp32.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale);

}  // namespace qkr
