// The words of every argument error: "<op>: <argument> must <rule>, got <value>".
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <initializer_list>
#include <string>

namespace qkr {

template <class Value>
void check_that(bool ok, const char* op, const char* name, const char* rule, const Value& got) {
  TORCH_CHECK(ok, op, ": ", name, " must ", rule, ", got ", got);
}

// Sizes are asked for as symbols wherever a Meta function comes by, so that one graph serves all sizes under torch.compile.
inline void check_shape(const char* op, const char* name, const at::Tensor& t, c10::SymIntArrayRef want) {
  TORCH_CHECK(t.sym_sizes() == want, op, ": ", name, " must have shape ", want, ", got ", t.sym_sizes());
}

inline void check_dtype(const char* op, const char* name, const at::Tensor& t,
                        std::initializer_list<at::ScalarType> allowed) {
  std::string names;
  for (const at::ScalarType type : allowed) {
    if (t.scalar_type() == type) return;
    names += (names.empty() ? "" : " or ") + std::string(c10::toString(type));
  }
  TORCH_CHECK(false, op, ": ", name, " must be ", names, ", got ", t.scalar_type());
}

inline void check_device(const char* op, const char* name, const at::Tensor& t, const char* other_name,
                         const at::Tensor& other) {
  TORCH_CHECK(t.device() == other.device(), op, ": ", name, " must be on the device of ", other_name, " (",
              other.device(), "), got ", t.device());
}

inline void check_contiguous(const char* op, const char* name, const at::Tensor& t) {
  TORCH_CHECK(t.is_contiguous(), op, ": ", name, " must be contiguous, got strides ", t.sym_strides());
}

// For operators without a derivative.
inline void check_no_grad(const char* op, const char* name, const at::Tensor& t) {
  TORCH_CHECK(
      !(c10::GradMode::is_enabled() && t.requires_grad()), op, ": ", name,
      " must not require grad, got one that does: the operator has no derivative; detach it or work under no_grad");
}

}  // namespace qkr
