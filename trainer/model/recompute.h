// Activation checkpointing: the C++ API of Torch has none.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

namespace qkr {

// body(input) computed without a graph; the backward computes it again with one and adds to the .grad of every leaf that the
// body uses. `input` [..] is all that is kept. `body` must be a pure function of its argument and of leaf tensors, and what it
// refers to must outlive the backward. Returns body(input) as it is where nothing needs a gradient: neither the input nor, by
// `leaves_do`, a leaf.
at::Tensor recompute_in_backward(std::function<at::Tensor(const at::Tensor&)> body, const at::Tensor& input, bool leaves_do = false);

}  // namespace qkr
