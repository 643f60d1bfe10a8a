// An operator and its gradients against a plain composite in the same dtype and against the composite in float64.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <functional>
#include <string>
#include <vector>

#include "tests/support/accuracy.h"

namespace qkr::test {

using Tensors = std::vector<at::Tensor>;
using TensorFunction = std::function<Tensors(const Tensors& inputs)>;  // differentiable

struct Differentiated {
  Tensors outputs, grads;  // a gradient for each input that is not integral
};

// f and the gradients of sum over outputs of <output, upstream>, at the inputs as given (device, dtype, strides).
inline Differentiated differentiated(const TensorFunction& f, const Tensors& inputs, const Tensors& upstream) {
  Tensors leaves, wanted;
  for (const at::Tensor& input : inputs) {
    const at::Tensor leaf = input.detach();
    leaves.push_back(leaf);
    if (at::isFloatingType(leaf.scalar_type())) wanted.push_back(leaf.requires_grad_(true));
  }
  Differentiated out;
  out.outputs = f(leaves);
  Tensors grads_in;
  for (size_t i = 0; i < out.outputs.size(); ++i) {
    grads_in.push_back(upstream[i].to(out.outputs[i].device(), out.outputs[i].scalar_type()));
  }
  out.grads = torch::autograd::grad(out.outputs, wanted, grads_in);
  for (at::Tensor& output : out.outputs) output = output.detach();
  return out;
}

// What f's outputs look like when each is met by a random gradient, in the dtype of the first input.
inline Tensors random_upstream(const TensorFunction& plain, const Tensors& inputs) {
  Tensors upstream;
  for (const at::Tensor& output : plain(inputs))
    upstream.push_back(at::randn(output.sizes()).to(inputs[0].scalar_type()));
  return upstream;
}

// `got` on `device` with the inputs (CPU tensors in the dtype under test), `plain` on the CPU with the same and with
// them in float64. `place` brings an input to the device, by default densely.
inline void expect_gradients_as_accurate(const TensorFunction& got, const TensorFunction& plain, const Tensors& inputs,
                                         at::Device device, std::function<at::Tensor(const at::Tensor&)> place = {}) {
  const Tensors upstream = random_upstream(plain, inputs);
  Tensors placed, wide;
  for (const at::Tensor& input : inputs) {
    placed.push_back(place ? place(input) : input.to(device));
    wide.push_back(at::isFloatingType(input.scalar_type()) ? input.to(at::kDouble) : input);
  }
  const Differentiated a = differentiated(got, placed, upstream), b = differentiated(plain, inputs, upstream),
                       truth = differentiated(plain, wide, upstream);
  const auto compare = [](const char* what, const Tensors& x, const Tensors& y, const Tensors& want) {
    ASSERT_EQ(x.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      SCOPED_TRACE(std::string(what) + " " + std::to_string(i));
      EXPECT_TRUE(x[i].is_contiguous());
      expect_as_accurate(x[i].cpu(), y[i], want[i]);
    }
  };
  compare("output", a.outputs, b.outputs, truth.outputs);
  compare("gradient", a.grads, b.grads, truth.grads);
}

// `got` in float64 is `plain` up to rounding: inputs are float64 tensors on the CPU.
inline void expect_fp64(const TensorFunction& got, const TensorFunction& plain, const Tensors& inputs,
                        at::Device device) {
  const Tensors upstream = random_upstream(plain, inputs);
  Tensors placed;
  for (const at::Tensor& input : inputs) placed.push_back(input.to(device));
  const Differentiated a = differentiated(got, placed, upstream), b = differentiated(plain, inputs, upstream);
  for (size_t i = 0; i < b.outputs.size(); ++i) EXPECT_LE(relative_rms(a.outputs[i].cpu(), b.outputs[i]), 1e-14);
  for (size_t i = 0; i < b.grads.size(); ++i) EXPECT_LE(relative_rms(a.grads[i].cpu(), b.grads[i]), 1e-13);
}

// Same shapes, dtypes and strides on Meta tensors as on real ones.
inline void expect_meta_parity(const TensorFunction& f, const Tensors& inputs) {
  Tensors meta;
  for (const at::Tensor& input : inputs) meta.push_back(input.to(at::kMeta));
  const Tensors real = f(inputs), shadow = f(meta);
  ASSERT_EQ(real.size(), shadow.size());
  for (size_t i = 0; i < real.size(); ++i) {
    EXPECT_EQ(shadow[i].sizes(), real[i].sizes());
    EXPECT_EQ(shadow[i].strides(), real[i].strides());
    EXPECT_EQ(shadow[i].scalar_type(), real[i].scalar_type());
    EXPECT_TRUE(shadow[i].is_meta());
  }
}

}  // namespace qkr::test
