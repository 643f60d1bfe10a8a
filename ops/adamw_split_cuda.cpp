#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/adamw/launch.h"
#include "ops/adamw_params.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

void adamw_cuda(const Tensor& weight, const OptionalTensor& master_low, const Tensor& grad, const Tensor& exp_avg,
                const Tensor& exp_avg_sq, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                double eps, double weight_decay, int64_t step) {
  const AdamwArguments a{
      weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, {lr, beta1, beta2, eps, weight_decay, step}};
  check_adamw(a);
  const c10::cuda::CUDAGuard device(weight.device());
  const auto stream = c10::cuda::getCurrentCUDAStream();
  with_adamw_params(a, [&](const auto& p) { C10_CUDA_CHECK(launch_adamw(p, stream)); });
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) { m.impl("adamw_split_", qkr::adamw_cuda); }
