#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <tuple>
#include <vector>

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
  with_adamw_tensor(a, grad.contiguous(), [&](const auto& tensor) {
    C10_CUDA_CHECK(launch_adamw(&tensor, 1, adamw_shared(clip_scale, a.options), c10::cuda::getCurrentCUDAStream()));
  });
}

// A list for each combination of dtypes.
template <class Master, class Grad>
using List = std::vector<AdamwTensor<Master, Grad>>;
using Lists = std::tuple<List<SplitMaster, Bf16>, List<SplitMaster, float>, List<Fp32Master, Bf16>, List<Fp32Master, float>>;

void adamw_list_cuda(at::TensorList weights, at::TensorList master_lows, at::TensorList grads, at::TensorList exp_avgs,
                     at::TensorList exp_avg_sqs, const OptionalTensor& clip_scale, double lr, double beta1, double beta2,
                     double eps, double weight_decay, int64_t step) {
  const AdamwOptions options{lr, beta1, beta2, eps, weight_decay, step};
  Lists lists;
  std::vector<Tensor> dense_grads;  // alive until the launches
  for_each_adamw({weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, options}, [&](const AdamwArguments& a) {
    dense_grads.push_back(a.grad.contiguous());
    with_adamw_tensor(a, dense_grads.back(), [&]<class Master, class Grad>(const AdamwTensor<Master, Grad>& tensor) {
      std::get<List<Master, Grad>>(lists).push_back(tensor);
    });
  });
  if (weights.empty()) return;
  const c10::cuda::CUDAGuard device(weights[0].device());
  const auto launch = [&](const auto& list) {
    const auto count = static_cast<int64_t>(list.size());
    C10_CUDA_CHECK(launch_adamw(list.data(), count, adamw_shared(clip_scale, options), c10::cuda::getCurrentCUDAStream()));
  };
  std::apply([&](const auto&... list) { (launch(list), ...); }, lists);
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("adamw_split_", qkr::adamw_cuda);
  m.impl("adamw_split_list_", qkr::adamw_list_cuda);
}
