#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/round_once/launch.h"
#include "ops/registration.h"
#include "ops/round_once.h"

namespace qkr {
namespace {

at::Tensor round_once_cuda(const at::Tensor& x, at::ScalarType dtype) {
  const c10::cuda::CUDAGuard device(x.device());
  if (dtype != at::kBFloat16) return round_once_composite(x, dtype);
  at::Tensor y = round_once_meta(x, dtype);
  const at::Tensor dense = x.contiguous();
  C10_CUDA_CHECK(launch_round_once(dense.const_data_ptr<double>(), static_cast<Bf16*>(y.mutable_data_ptr()),
                                   dense.numel(), c10::cuda::getCurrentCUDAStream()));
  return y;
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) { m.impl("round_once", qkr::round_once_cuda); }
