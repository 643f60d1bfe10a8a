#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/embedding_grad/launch.h"
#include "ops/embedding.h"
#include "ops/pointwise.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

Tensor embedding_grad_cuda(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  const c10::cuda::CUDAGuard device(grad.device());
  if (!has_kernel_type(grad)) return embedding_grad_composite(grad, tokens, vocabulary);
  Tensor grad_weight = embedding_grad_meta(grad, tokens, vocabulary);
  // in 32 bits a radix sort has half the passes
  const auto [sorted, order] = at::sort(tokens.to(at::kInt), /*stable=*/true, /*dim=*/0, /*descending=*/false);
  const RowsView rows(grad);
  const auto fp32 = grad.options().dtype(at::kFloat);
  const Tensor partials = at::empty({embedding_pieces(rows.rows), 2, rows.cols}, fp32);
  const Tensor groups = at::empty({embedding_groups(rows.rows), rows.cols}, fp32);
  with_kernel_type(grad, [&, &sorted = sorted, &order = order](auto zero) {
    using T = decltype(zero);
    EmbeddingGradParams<T> p;
    p.dy = rows.data<T>();
    p.tokens = sorted.template const_data_ptr<int32_t>();
    p.order = order.template const_data_ptr<int64_t>();
    p.grad_weight = mutable_data<T>(grad_weight);
    p.partials = mutable_data<float>(partials);
    p.groups = mutable_data<float>(groups);
    p.count = rows.rows, p.vocabulary = vocabulary, p.cols = rows.cols, p.dy_stride = rows.stride;
    C10_CUDA_CHECK(launch_embedding_grad(p, c10::cuda::getCurrentCUDAStream()));
  });
  return grad_weight;
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) { m.impl("embedding_grad", qkr::embedding_grad_cuda); }
