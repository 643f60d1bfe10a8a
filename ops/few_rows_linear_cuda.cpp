#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <algorithm>

#include "csrc/few_rows_linear/launch.h"
#include "ops/few_rows_linear.h"

namespace qkr {
namespace {

bool is_aligned(const at::Tensor& t) { return reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0; }

bool serves(const at::Tensor& x, const std::vector<at::Tensor>& weights) {
  const auto readable = [](const at::Tensor& w) { return w.is_contiguous() && is_aligned(w); };
  return x.scalar_type() == at::kBFloat16 && x.size(0) >= 1 && x.size(0) <= FewRowsLinearParams::kMostRows && x.size(1) > 0 &&
         x.size(1) % FewRowsLinearParams::kPack == 0 && std::all_of(weights.begin(), weights.end(), readable);
}

bool run(const at::Tensor& given, const std::vector<at::Tensor>& weights, std::vector<at::Tensor>& results) {
  if (!serves(given, weights)) return false;
  const c10::cuda::CUDAGuard device(given.device());
  const at::Tensor dense = given.contiguous(), x = is_aligned(dense) ? dense : dense.clone();
  for (size_t begin = 0; begin < weights.size(); begin += FewRowsLinearParams::kMostWeights) {
    FewRowsLinearParams p;
    p.x = static_cast<const Bf16*>(x.const_data_ptr());
    p.rows = static_cast<int>(x.size(0));
    p.cols = p.x_stride = x.size(1);
    for (size_t i = begin; i < std::min(begin + FewRowsLinearParams::kMostWeights, weights.size()); ++i) {
      at::Tensor& y = results.emplace_back(at::empty({x.size(0), weights[i].size(0)}, x.options()));
      p.weights[i - begin] = static_cast<const Bf16*>(weights[i].const_data_ptr());
      p.y[i - begin] = static_cast<Bf16*>(y.mutable_data_ptr());
      p.outs[i - begin] = weights[i].size(0);
    }
    C10_CUDA_CHECK(launch_few_rows_linear(p, c10::cuda::getCurrentCUDAStream()));
  }
  return true;
}

[[maybe_unused]] const bool kSet = set_few_rows_kernel(run);

}  // namespace
}  // namespace qkr
