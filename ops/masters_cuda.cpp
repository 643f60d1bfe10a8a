#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/adamw/launch.h"
#include "ops/masters.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

SplitMaster halves(const Tensor& weight, const Tensor& master_low) {
  return {static_cast<Bf16*>(weight.data_ptr()), master_low.data_ptr<int16_t>()};
}

std::tuple<Tensor, Tensor> split_cuda(const Tensor& master) {
  const c10::cuda::CUDAGuard device(master.device());
  const auto [weight, low] = split_master_meta(master);
  const Tensor dense = master.contiguous();
  C10_CUDA_CHECK(launch_split_master(dense.const_data_ptr<float>(), halves(weight, low), dense.numel(),
                                     c10::cuda::getCurrentCUDAStream()));
  return {weight, low};
}

Tensor join_cuda(const Tensor& weight, const Tensor& master_low) {
  const c10::cuda::CUDAGuard device(weight.device());
  Tensor master = join_master_meta(weight, master_low);
  const Tensor high = weight.contiguous(), low = master_low.contiguous();
  C10_CUDA_CHECK(launch_join_master(halves(high, low), master.mutable_data_ptr<float>(), master.numel(),
                                    c10::cuda::getCurrentCUDAStream()));
  return master;
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("split_master", qkr::split_cuda);
  m.impl("join_master", qkr::join_cuda);
}
