#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/needle_attention/launch.h"
#include "ops/needle_attention.h"
#include "ops/needle_attention_params.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

Tensor cuda(const Tensor& q, const Tensor& k, const Tensor& query_positions, const Tensor& key_ranges, double scale) {
  const c10::cuda::CUDAGuard device(q.device());
  const Tensor mass = needle_attention_meta(q, k, query_positions, key_ranges, scale);
  if (mass.numel() == 0) return mass;
  const NeedleAttentionTensors tensors(q, k, query_positions, key_ranges, mass);
  with_kernel_type(q, [&](auto zero) {
    const auto p = tensors.params<decltype(zero)>(scale);
    const Tensor room = at::empty({needle_attention_room(p)}, mass.options());
    C10_CUDA_CHECK(launch_needle_attention(p, mutable_data<float>(room), c10::cuda::getCurrentCUDAStream()));
  });
  return mass;
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) { m.impl("needle_attention", qkr::cuda); }
