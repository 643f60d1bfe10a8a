// What the operators on rows share: who needs a graph, fp32 islands, and tensors seen as rows.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "csrc/core/bits.h"

namespace qkr {

// The dtype in which a composite computes what must not be rounded: fp32, but fp64 where the tensors are (that is how
// the truth is reached).
inline at::ScalarType wide_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Where nothing records, a call skips its autograd function and saves the host some microseconds: a decode step is
// made of them.
inline bool nothing_records() { return !c10::GradMode::is_enabled(); }

inline void check_first_derivative_only(const char* op) {
  TORCH_CHECK(!c10::GradMode::is_enabled(), op, ": has no second derivative; call backward without create_graph");
}

// x [..., D] as rows [N, D] of neighbouring elements, `stride` elements apart. Copies only what has no such view.
struct RowsView {
  at::Tensor tensor;  // keeps a copy alive
  int64_t rows = 0, cols = 0, stride = 0;

  explicit RowsView(const at::Tensor& x) : cols(x.size(-1)) {
    rows = 1;
    for (const int64_t size : x.sizes().slice(0, x.dim() - 1)) rows *= size;
    const bool rows_in_place = x.dim() == 2 && (x.stride(1) == 1 || cols == 1);
    tensor = rows_in_place ? x : x.contiguous();
    stride = rows_in_place && rows > 1 ? x.stride(0) : cols;
  }

  template <class T>
  const T* data() const {
    return static_cast<const T*>(tensor.const_data_ptr());
  }
};

// Whether there are kernels for tensors of this dtype.
inline bool has_kernel_type(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 || x.scalar_type() == at::kFloat;
}

// Calls f(Bf16{}) or f(float{}), after has_kernel_type.
template <class F>
auto with_kernel_type(const at::Tensor& x, F&& f) {
  return x.scalar_type() == at::kBFloat16 ? f(Bf16{}) : f(float{});
}

template <class T>
const T* data_or_null(const std::optional<at::Tensor>& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}

template <class T>
T* mutable_data(const at::Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

}  // namespace qkr
