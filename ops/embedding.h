// Embedding lookup with a gradient that is the same on every run.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

// weight[tokens]: [N, D]. Differentiable once in weight, by embedding_grad.
at::Tensor embed_tokens(const at::Tensor& weight,   // [V, D]
                        const at::Tensor& tokens);  // [N] int64 in [0, V)

// grad_weight[v, :] = sum over n with tokens[n] = v of grad[n, :], added up in fp32 (fp64) in the order of n within
// pieces of the sorted tokens (Note [Sorted segments]), rounded once. No atomics, nothing waits for the device.
// Kernels for bf16 and fp32.
at::Tensor embedding_grad(const at::Tensor& grad,    // [N, D]
                          const at::Tensor& tokens,  // [N] int64 in [0, V)
                          int64_t vocabulary);       // V

at::Tensor embedding_grad_composite(const at::Tensor& grad, const at::Tensor& tokens, int64_t vocabulary);
at::Tensor embedding_grad_meta(const at::Tensor& grad, const at::Tensor& tokens, int64_t vocabulary);

}  // namespace qkr
