// The straight line between what a weight was and what it became.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

// pre + share (post - pre), in fp64 with one rounding to the stored dtype. Exact where it can be: share 0 gives the bytes of
// pre, share 1 those of post, and an element that did not move keeps its bytes at any share.
at::Tensor lerp_weights(const at::Tensor& pre,   // [...] bf16, fp16, fp32 or fp64
                        const at::Tensor& post,  // the same shape and dtype
                        double share);           // 0 to 1

}  // namespace qkr
