#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/column_sum/launch.h"
#include "csrc/rms_norm/launch.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/rms_norm_halves.h"

namespace qkr {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

std::optional<RowsView> rows_of(const OptionalTensor& t) { return t ? std::optional<RowsView>(*t) : std::nullopt; }

template <class T>
const T* data_of(const std::optional<RowsView>& rows) {
  return rows ? rows->data<T>() : nullptr;
}

int64_t stride_of(const std::optional<RowsView>& rows) { return rows ? rows->stride : 0; }

// False where the kernels do not hold a row.
template <class T>
bool fwd(const RowsView& x, const std::optional<RowsView>& added, const std::optional<RowsView>& gate,
         const Tensor& weight, double eps, const Tensor& y, const Tensor& sum) {
  RmsNormParams<T> p;
  p.x = x.data<T>();
  p.added = data_of<T>(added);
  p.gate = data_of<T>(gate);
  p.w = static_cast<const T*>(weight.const_data_ptr());
  p.y = mutable_data<T>(y);
  p.sum = added ? mutable_data<T>(sum) : nullptr;
  p.rows = x.rows, p.cols = x.cols;
  p.x_stride = x.stride, p.added_stride = stride_of(added), p.gate_stride = stride_of(gate);
  p.eps = static_cast<float>(eps);
  if (!rms_norm_serves(p)) return false;
  C10_CUDA_CHECK(launch_rms_norm(p, c10::cuda::getCurrentCUDAStream()));
  return true;
}

std::tuple<Tensor, Tensor> rms_norm_fwd_cuda(const Tensor& x, const OptionalTensor& added, const OptionalTensor& gate,
                                             const Tensor& weight, double eps) {
  const c10::cuda::CUDAGuard device(x.device());
  auto [y, sum] = rms_norm_fwd_meta(x, added, gate, weight, eps);
  if (has_kernel_type(x)) {
    const RowsView rows(x);
    const auto added_rows = rows_of(added), gate_rows = rows_of(gate);
    const Tensor w = weight.contiguous();
    const bool served = with_kernel_type(x, [&, &y = y, &sum = sum](auto zero) {
      return fwd<decltype(zero)>(rows, added_rows, gate_rows, w, eps, y, sum);
    });
    if (served) return {y, sum};
  }
  return rms_norm_fwd_composite(x, added, gate, weight, eps);
}

template <class T>
bool bwd(const RowsView& dy, const std::optional<RowsView>& dsum, const RowsView& h,
         const std::optional<RowsView>& gate, const Tensor& weight, double eps, const Tensor& dh, const Tensor& dgate,
         const Tensor& dw) {
  RmsNormGradParams<T> p;
  p.dy = dy.data<T>();
  p.dsum = data_of<T>(dsum);
  p.h = h.data<T>();
  p.gate = data_of<T>(gate);
  p.w = static_cast<const T*>(weight.const_data_ptr());
  p.dh = mutable_data<T>(dh);
  p.dgate = gate ? mutable_data<T>(dgate) : nullptr;
  p.rows = h.rows, p.cols = h.cols;
  p.dy_stride = dy.stride, p.dsum_stride = stride_of(dsum), p.h_stride = h.stride, p.gate_stride = stride_of(gate);
  p.eps = static_cast<float>(eps);
  if (!rms_norm_serves(p)) return false;
  const int64_t shares = rms_norm_partials(p.rows, p.cols);
  const Tensor partials = at::empty({shares, p.cols}, dw.options().dtype(at::kFloat));
  p.partials = mutable_data<float>(partials);
  const auto stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(launch_rms_norm_grad(p, stream));
  C10_CUDA_CHECK(launch_column_sums<T>({p.partials, shares, mutable_data<T>(dw)}, {}, p.cols, stream));
  return true;
}

std::tuple<Tensor, Tensor, Tensor> rms_norm_bwd_cuda(const Tensor& grad_y, const OptionalTensor& grad_h,
                                                     const Tensor& h, const OptionalTensor& gate, const Tensor& weight,
                                                     double eps) {
  const c10::cuda::CUDAGuard device(h.device());
  auto [dh, dgate, dw] = rms_norm_bwd_meta(grad_y, grad_h, h, gate, weight, eps);
  if (has_kernel_type(h)) {
    const RowsView dy_rows(grad_y), h_rows(h);
    const auto dsum_rows = rows_of(grad_h), gate_rows = rows_of(gate);
    const Tensor w = weight.contiguous();
    const bool served = with_kernel_type(h, [&, &dh = dh, &dgate = dgate, &dw = dw](auto zero) {
      return bwd<decltype(zero)>(dy_rows, dsum_rows, h_rows, gate_rows, w, eps, dh, dgate, dw);
    });
    if (served) return {dh, dgate, dw};
  }
  return rms_norm_bwd_composite(grad_y, grad_h, h, gate, weight, eps);
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("_rms_norm_fwd", qkr::rms_norm_fwd_cuda);
  m.impl("_rms_norm_bwd", qkr::rms_norm_bwd_cuda);
}
