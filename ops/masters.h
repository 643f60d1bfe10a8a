// What split_master and join_master of ops/adamw_split.h share on every device.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace qkr {

// Outputs alone, dense, not written. They refuse what is wrong.
std::tuple<at::Tensor, at::Tensor> split_master_meta(const at::Tensor& master);
at::Tensor join_master_meta(const at::Tensor& weight, const at::Tensor& master_low);

}  // namespace qkr
