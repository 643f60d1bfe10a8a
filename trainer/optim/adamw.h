// AdamW over the live weights, and the global gradient norm. bf16 weights keep an exact fp32 master: their own 16 bits and 16
// more in the optimizer's state (ops/adamw_split.h), so that updates far below a bf16 ulp are not lost.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/named_tensors.h"

namespace qkr {

class AdamW {
 public:
  // One zeroed set of moments for every weight that requires a gradient. The tensors are shared with `weights`.
  AdamW(const OptimConfigSection& config, const NamedTensors& weights);

  // "exp_avg.<weight>", "exp_avg_sq.<weight>" fp32 and, for bf16 weights, "master_low.<weight>" int16: live.
  const NamedTensors& state() const { return state_; }

  // The L2 norm of all gradients together, fp32 [] on their device. A weight without a gradient counts as zero.
  at::Tensor grad_norm() const;

  // One update with min(1, clip_norm / norm) on the gradients; `step` counts from 1. Then every gradient is dropped. No weight
  // decay on one-dimensional weights.
  void step(int64_t step, double lr, const at::Tensor& norm);

  void drop_grads();

 private:
  struct Slot {
    at::Tensor weight, exp_avg, exp_avg_sq, master_low;
  };
  struct Lists {
    std::vector<at::Tensor> weights, master_lows, grads, exp_avgs, exp_avg_sqs;
  };
  std::vector<at::Tensor> grads() const;
  Lists lists_of(bool decays, bool split) const;  // what one update takes together

  OptimConfigSection config_;
  std::vector<Slot> slots_;
  NamedTensors state_;
};

// After weights were overwritten from outside (a restore): their master is the weight itself, so the low halves become zero.
void reset_masters(const NamedTensors& optim_state, const std::vector<std::string>& names);

}  // namespace qkr
