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
using Pair = std::tuple<Tensor, Tensor>;
using PairGrads = std::tuple<Tensor, Tensor, Tensor, Tensor>;

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

// One tensor's way forward: what the launch needs, kept alive.
struct Forward {
  Tensor rows, y;
  Dense dense;
  double eps;

  template <class T>
  QkNormRopeParams<T> params() const {
    QkNormRopeParams<T> p;
    fill<T>(p, rows, dense, eps);
    p.x = static_cast<const T*>(rows.const_data_ptr());
    p.y = mutable_data<T>(y);
    p.token_stride = stride_of(rows, 0), p.head_stride = stride_of(rows, 1);
    return p;
  }
};

// And back; without a weight x is not read.
struct Backward {
  Tensor grad_rows, x_rows, dx, dw, partials;
  Dense dense;
  double eps;

  Backward(const Tensor& grad, const Tensor& x, Tensor grad_x, Tensor grad_weight, Dense d, int64_t shares, double e)
      : grad_rows(with_rows(grad)), x_rows(d.weight ? with_rows(x) : grad_rows), dx(std::move(grad_x)),
        dw(std::move(grad_weight)), partials(at::empty({d.weight ? shares : 0, x.size(2)}, x.options().dtype(at::kFloat))),
        dense(std::move(d)), eps(e) {}

  template <class T>
  QkNormRopeGradParams<T> params() const {
    QkNormRopeGradParams<T> p;
    fill<T>(p, x_rows, dense, eps);
    p.dy = static_cast<const T*>(grad_rows.const_data_ptr());
    p.x = static_cast<const T*>(x_rows.const_data_ptr());
    p.dx = mutable_data<T>(dx);
    p.partials = dense.weight ? mutable_data<float>(partials) : nullptr;
    p.dy_token_stride = stride_of(grad_rows, 0), p.dy_head_stride = stride_of(grad_rows, 1);
    p.x_token_stride = stride_of(x_rows, 0), p.x_head_stride = stride_of(x_rows, 1);
    return p;
  }
  template <class T>
  ColumnSum<T> weight_sum() const {
    return {partials.const_data_ptr<float>(), partials.size(0), mutable_data<T>(dw)};
  }
};

Tensor fwd_cuda(const Tensor& x, const OptionalTensor& weight, const OptionalTensor& cos, const OptionalTensor& sin,
                const OptionalTensor& factor, double eps) {
  const c10::cuda::CUDAGuard device(x.device());
  const Tensor y = qk_norm_rope_meta(x, weight, cos, sin, factor, eps);
  if (!has_kernel(x)) return qk_norm_rope_composite(x, weight, cos, sin, factor, eps);
  const Forward f{with_rows(x), y, {weight, cos, sin, factor}, eps};
  with_kernel_type(x, [&](auto zero) {
    using T = decltype(zero);
    C10_CUDA_CHECK(launch_qk_norm_rope<T>(f.params<T>(), {}, c10::cuda::getCurrentCUDAStream()));
  });
  return y;
}

std::tuple<Tensor, Tensor> bwd_cuda(const Tensor& grad, const Tensor& x, const OptionalTensor& weight,
                                    const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor,
                                    double eps) {
  const c10::cuda::CUDAGuard device(x.device());
  auto [dx, dw] = qk_norm_rope_bwd_meta(grad, x, weight, cos, sin, factor, eps);
  if (!has_kernel(x)) return qk_norm_rope_bwd_composite(grad, x, weight, cos, sin, factor, eps);
  const int64_t shares = qk_norm_rope_partials(x.size(0) * x.size(1), 0).first;
  const Backward b(grad, x, dx, dw, {weight, cos, sin, factor}, shares, eps);
  with_kernel_type(x, [&](auto zero) {
    using T = decltype(zero);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(launch_qk_norm_rope_grad<T>(b.params<T>(), {}, stream));
    if (weight) C10_CUDA_CHECK(launch_column_sums<T>(b.weight_sum<T>(), {}, x.size(2), stream));
  });
  return {dx, dw};
}

Pair pair_fwd_cuda(const Tensor& q, const Tensor& k, const OptionalTensor& q_weight, const OptionalTensor& k_weight,
                   const OptionalTensor& cos, const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  const c10::cuda::CUDAGuard device(q.device());
  const auto [q_out, k_out] = qk_norm_rope_pair_meta(q, k, q_weight, k_weight, cos, sin, factor, eps);
  if (!has_kernel(q) || !has_kernel(k))
    return qk_norm_rope_pair_composite(q, k, q_weight, k_weight, cos, sin, factor, eps);
  const Forward fq{with_rows(q), q_out, {q_weight, cos, sin, factor}, eps};
  const Forward fk{with_rows(k), k_out, {k_weight, fq.dense.cos, fq.dense.sin, {}}, eps};
  with_kernel_type(q, [&](auto zero) {
    using T = decltype(zero);
    C10_CUDA_CHECK(launch_qk_norm_rope(fq.params<T>(), fk.params<T>(), c10::cuda::getCurrentCUDAStream()));
  });
  return {q_out, k_out};
}

PairGrads pair_bwd_cuda(const Tensor& grad_q, const Tensor& grad_k, const Tensor& q, const Tensor& k,
                        const OptionalTensor& q_weight, const OptionalTensor& k_weight, const OptionalTensor& cos,
                        const OptionalTensor& sin, const OptionalTensor& factor, double eps) {
  const c10::cuda::CUDAGuard device(q.device());
  auto [dq, dk, dq_weight, dk_weight] =
      qk_norm_rope_pair_bwd_meta(grad_q, grad_k, q, k, q_weight, k_weight, cos, sin, factor, eps);
  if (!has_kernel(q) || !has_kernel(k))
    return qk_norm_rope_pair_bwd_composite(grad_q, grad_k, q, k, q_weight, k_weight, cos, sin, factor, eps);
  const QkNormRopePartials shares = qk_norm_rope_partials(q.size(0) * q.size(1), k.size(0) * k.size(1));
  const Backward bq(grad_q, q, dq, dq_weight, {q_weight, cos, sin, factor}, shares.first, eps);
  const Backward bk(grad_k, k, dk, dk_weight, {k_weight, bq.dense.cos, bq.dense.sin, {}}, shares.second, eps);
  with_kernel_type(q, [&](auto zero) {
    using T = decltype(zero);
    const auto stream = c10::cuda::getCurrentCUDAStream();
    C10_CUDA_CHECK(launch_qk_norm_rope_grad(bq.params<T>(), bk.params<T>(), stream));
    if (q_weight) C10_CUDA_CHECK(launch_column_sums(bq.weight_sum<T>(), bk.weight_sum<T>(), q.size(2), stream));
  });
  return {dq, dk, dq_weight, dk_weight};
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("qk_norm_rope", qkr::fwd_cuda);
  m.impl("_qk_norm_rope_bwd", qkr::bwd_cuda);
  m.impl("qk_norm_rope_pair", qkr::pair_fwd_cuda);
  m.impl("_qk_norm_rope_pair_bwd", qkr::pair_bwd_cuda);
}
