#include "trainer/restore/lerp.h"

#include <ATen/ATen.h>

#include "ops/procrustes.h"

namespace qkr {

at::Tensor lerp_weights(const at::Tensor& pre, const at::Tensor& post, double share) {
  if (share == 0) return pre;
  if (share == 1) return post;
  const at::Tensor from = pre.to(at::kDouble);
  const at::Tensor blend = from + share * (post.to(at::kDouble) - from);
  return at::where(pre == post, post, round_once(blend, pre.scalar_type()));  // the sum alone would turn -0 into +0
}

}  // namespace qkr
