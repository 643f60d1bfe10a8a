#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "csrc/gates/launch.h"
#include "ops/gates.h"
#include "ops/pointwise.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

// Dense operands are one long row.
bool is_one_row(const RowsView& r) { return r.stride == r.cols; }

template <GateKind kKind>
Tensor fwd_cuda(const Tensor& gate, const Tensor& x) {
  const c10::cuda::CUDAGuard device(gate.device());
  Tensor y = gate_meta<kKind>(gate, x);
  if (!has_kernel_type(gate)) return gate_composite<kKind>(gate, x);
  const RowsView gate_rows(gate), x_rows(x);
  const bool flat = is_one_row(gate_rows) && is_one_row(x_rows);
  with_kernel_type(gate, [&](auto zero) {
    using T = decltype(zero);
    GateParams<T> p;
    p.gate = gate_rows.data<T>(), p.x = x_rows.data<T>(), p.y = mutable_data<T>(y);
    p.rows = flat ? 1 : gate_rows.rows, p.cols = flat ? gate.numel() : gate_rows.cols;
    p.gate_stride = flat ? 0 : gate_rows.stride, p.x_stride = flat ? 0 : x_rows.stride;
    p.kind = kKind;
    C10_CUDA_CHECK(launch_gate(p, c10::cuda::getCurrentCUDAStream()));
  });
  return y;
}

template <GateKind kKind>
std::tuple<Tensor, Tensor> bwd_cuda(const Tensor& grad, const Tensor& gate, const Tensor& x) {
  const c10::cuda::CUDAGuard device(gate.device());
  auto [dgate, dx] = gate_bwd_meta<kKind>(grad, gate, x);
  if (!has_kernel_type(gate)) return gate_bwd_composite<kKind>(grad, gate, x);
  const RowsView dy_rows(grad), gate_rows(gate), x_rows(x);
  const bool flat = is_one_row(dy_rows) && is_one_row(gate_rows) && is_one_row(x_rows);
  with_kernel_type(gate, [&, &dgate = dgate, &dx = dx](auto zero) {
    using T = decltype(zero);
    GateGradParams<T> p;
    p.dy = dy_rows.data<T>(), p.gate = gate_rows.data<T>(), p.x = x_rows.data<T>();
    p.dgate = mutable_data<T>(dgate), p.dx = mutable_data<T>(dx);
    p.rows = flat ? 1 : gate_rows.rows, p.cols = flat ? gate.numel() : gate_rows.cols;
    p.dy_stride = flat ? 0 : dy_rows.stride;
    p.gate_stride = flat ? 0 : gate_rows.stride, p.x_stride = flat ? 0 : x_rows.stride;
    p.kind = kKind;
    C10_CUDA_CHECK(launch_gate_grad(p, c10::cuda::getCurrentCUDAStream()));
  });
  return {dgate, dx};
}

}  // namespace
}  // namespace qkr

using qkr::GateKind;

QKR_LIBRARY_IMPL(CUDA, m) {
  m.impl("swiglu", qkr::fwd_cuda<GateKind::kSwiglu>);
  m.impl("sigmoid_gate", qkr::fwd_cuda<GateKind::kSigmoid>);
  m.impl("_swiglu_bwd", qkr::bwd_cuda<GateKind::kSwiglu>);
  m.impl("_sigmoid_gate_bwd", qkr::bwd_cuda<GateKind::kSigmoid>);
}
