#include "ops/few_rows_linear.h"

#include <ATen/ATen.h>

#include "ops/check.h"

namespace qkr {
namespace {

FewRowsKernel& kernel() {
  static FewRowsKernel made = nullptr;
  return made;
}

}  // namespace

bool set_few_rows_kernel(FewRowsKernel made) {
  kernel() = made;
  return true;
}

std::vector<at::Tensor> few_rows_linear(const at::Tensor& x, const std::vector<at::Tensor>& weights) {
  constexpr const char* kOp = "few_rows_linear";
  check_that(x.dim() == 2, kOp, "x", "be [B, K]", x.sizes());
  for (const at::Tensor& w : weights) {
    check_that(w.dim() == 2 && w.size(1) == x.size(1), kOp, "weights", "be [N, K]", w.sizes());
    check_dtype(kOp, "weights", w, {x.scalar_type()});
    check_device(kOp, "weights", w, "x", x);
    check_no_grad(kOp, "weights", w);
  }
  std::vector<at::Tensor> results;
  if (x.is_cuda() && kernel() != nullptr && kernel()(x, weights, results)) return results;
  for (const at::Tensor& w : weights) results.push_back(at::linear(x, w));
  return results;
}

}  // namespace qkr
