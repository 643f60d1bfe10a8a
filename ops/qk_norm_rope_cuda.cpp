#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/column_sum/launch.h"
#include "csrc/qk_norm_rope/launch.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/qk_norm_rope.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

bool has_kernel(const Tensor& x) {
  return has_kernel_type(x) && x.size(2) <= kQkNormRopeMaxHeadDim && x.size(2) % 2 == 0 &&
         x.size(0) * x.size(1) <= kQkNormRopeMaxRows;
}

OptionalTensor dense(const OptionalTensor& t) { return t ? OptionalTensor(t->contiguous()) : std::nullopt; }

// x itself if the elements of a row are neighbours.
Tensor with_rows(const Tensor& x) { return x.stride(2) == 1 ? x : x.contiguous(); }

// A stride that is never used must not spoil the alignment.
int64_t stride_of(const Tensor& x, int64_t axis) { return x.size(axis) > 1 ? x.stride(axis) : 0; }

struct Dense {
  OptionalTensor weight, cos, sin, factor;
  Dense(const OptionalTensor& w, const OptionalTensor& c, const OptionalTensor& s, const OptionalTensor& f)
      : weight(dense(w)), cos(dense(c)), sin(dense(s)), factor(dense(f)) {}
};

// What both directions take alike.
template <class T, class Params>
void fill(Params& p, const Tensor& x, const Dense& d, double eps) {
  p.w = data_or_null<T>(d.weight);
  p.cos = data_or_null<T>(d.cos);
  p.sin = data_or_null<T>(d.sin);
  p.factor = data_or_null<float>(d.factor);
  p.tokens = x.size(0);
  p.heads = static_cast<int>(x.size(1)), p.head_dim = static_cast<int>(x.size(2));
  p.eps = static_cast<float>(eps);
}

Tensor fwd_cuda(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos, const OptionalTensor& sin,
                const OptionalTensor& factor, double eps) {
  const c10::cuda::CUDAGuard device(x.device());
  Tensor y = qk_norm_rope_meta(x, weight, cos, sin, factor, eps);
  if (!has_kernel(x)) return qk_norm_rope_composite(x, weight, cos, sin, factor, eps);
  const Tensor rows = with_rows(x);
  const Dense d(weight, cos, sin, factor);
  with_kernel_type(x, [&](auto zero) {
    using T = decltype(zero);
    QkNormRopeParams<T> p;
    fill<T>(p, rows, d, eps);
    p.x = static_cast<const T*>(rows.const_data_ptr());
    p.y = mutable_data<T>(y);
    p.token_stride = stride_of(rows, 0), p.head_stride = stride_of(rows, 1);
    C10_CUDA_CHECK(launch_qk_norm_rope(p, c10::cuda::getCurrentCUDAStream()));
  });
  return y;
}

std::tuple<Tensor, Tensor> bwd_cuda(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                    const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor,
                                    double eps) {
  const c10::cuda::CUDAGuard device(x.device());
  auto [dx, dw] = qk_norm_rope_bwd_meta(grad, x, weight, cos, sin, factor, eps);
  if (!has_kernel(x)) return qk_norm_rope_bwd_composite(grad, x, weight, cos, sin, factor, eps);
  const Tensor grad_rows = with_rows(grad), x_rows = weight ? with_rows(x) : grad_rows;
  const Dense d(weight, cos, sin, factor);
  const int64_t shares = weight ? qk_norm_rope_partials(x.size(0) * x.size(1)) : 0;
  const Tensor partials = at::empty({shares, x.size(2)}, x.options().dtype(at::kFloat));
  with_kernel_type(x, [&, &dx = dx, &dw = dw](auto zero) {
    using T = decltype(zero);
    QkNormRopeGradParams<T> p;
    fill<T>(p, x_rows, d, eps);
    p.dy = static_cast<const T*>(grad_rows.const_data_ptr());
    p.x = static_cast<const T*>(x_rows.const_data_ptr());
    p.dx = mutable_data<T>(dx);
    p.partials = weight ? mutable_data<float>(partials) : nullptr;
    p.dy_token_stride = stride_of(grad_rows, 0), p.dy_head_stride = stride_of(grad_rows, 1);
    p.x_token_stride = stride_of(x_rows, 0), p.x_head_stride = stride_of(x_rows, 1);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(launch_qk_norm_rope_grad(p, stream));
    if (weight) C10_CUDA_CHECK(launch_column_sum(p.partials, shares, x.size(2), mutable_data<T>(dw), stream));
  });
  return {dx, dw};
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("qk_norm_rope", qkr::fwd_cuda);
  m.impl("_qk_norm_rope_bwd", qkr::bwd_cuda);
}
