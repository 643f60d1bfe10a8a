// What the benchmarks of operators on rows share.
#pragma once

#include <ATen/ATen.h>

#include "tests/bench/support.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {

inline at::Tensor random_bf16(at::IntArrayRef shape) {
  return at::randn(shape, on_device(at::kFloat)).to(at::kBFloat16);
}

// rms(got - want) / rms(want); want is fp64.
inline double error_of(const at::Tensor& got, const at::Tensor& want) {
  return ((got.to(at::kDouble) - want).square().mean() / want.square().mean()).sqrt().item<double>();
}

// bf16 results against fp64: some roundings of 2^-9 one after another.
inline Accuracy verdict(double error) { return {concat("rms error ", scientific(error, 1)), error <= 6e-3}; }

// A half of an operator that only the dispatcher knows, by its schema and the type of a function like it.
template <class Function>
auto backward_op(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Function>();
}

}  // namespace qkr::bench
