// x w^T for a few rows and several weights in one launch: the projections of a decode step, at the memory's speed.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace qkr {

// {x [B, K] times each weight [N_i, K] transposed}: [B, N_i] of x's dtype. bf16 on CUDA with B up to 4 (beyond that tensor cores win): fp32 sums in a kernel that reads
// each weight once (four weights a launch), so the bits of a row hang on its own values alone; everything else: at::linear. No derivative.
std::vector<at::Tensor> few_rows_linear(const at::Tensor& x, const std::vector<at::Tensor>& weights);

// How the CUDA part of this library, if it was built, puts itself in. It returns false where it has no kernel.
using FewRowsKernel = bool (*)(const at::Tensor& x, const std::vector<at::Tensor>& weights, std::vector<at::Tensor>& results);
bool set_few_rows_kernel(FewRowsKernel kernel);

}  // namespace qkr
