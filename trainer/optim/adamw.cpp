#include "trainer/optim/adamw.h"

#include <ATen/ATen.h>

#include "ops/adamw_split.h"

namespace qkr {

AdamW::AdamW(const OptimConfigSection& config, const NamedTensors& weights) : config_(config) {
  for (const auto& [name, weight] : weights) {
    if (!weight.requires_grad()) continue;
    const auto fp32 = weight.options().dtype(at::kFloat).requires_grad(false);
    Slot slot{weight, at::zeros(weight.sizes(), fp32), at::zeros(weight.sizes(), fp32), {}};
    state_.set("exp_avg." + name, slot.exp_avg);
    state_.set("exp_avg_sq." + name, slot.exp_avg_sq);
    if (weight.scalar_type() == at::kBFloat16) {
      slot.master_low = at::zeros(weight.sizes(), fp32.dtype(at::kShort));
      state_.set("master_low." + name, slot.master_low);
    }
    slots_.push_back(std::move(slot));
  }
}

std::vector<at::Tensor> AdamW::grads() const {
  std::vector<at::Tensor> found;
  for (const Slot& slot : slots_) {
    if (slot.weight.grad().defined()) found.push_back(slot.weight.grad());
  }
  return found;
}

at::Tensor AdamW::grad_norm() const {
  const std::vector<at::Tensor> all = grads();
  if (all.empty()) return at::zeros({}, at::kFloat);
  return at::stack(at::_foreach_norm(all, 2, at::kFloat)).norm();
}

AdamW::Lists AdamW::lists_of(bool decays, bool split) const {
  Lists lists;
  for (const Slot& slot : slots_) {
    const at::Tensor& grad = slot.weight.grad();
    if (!grad.defined() || (slot.weight.dim() > 1) != decays || slot.master_low.defined() != split) continue;
    lists.weights.push_back(slot.weight);
    if (split) lists.master_lows.push_back(slot.master_low);
    lists.grads.push_back(grad);
    lists.exp_avgs.push_back(slot.exp_avg);
    lists.exp_avg_sqs.push_back(slot.exp_avg_sq);
  }
  return lists;
}

void AdamW::step(int64_t step, double lr, const at::Tensor& norm) {
  std::optional<at::Tensor> clip_scale;
  // The norm stays on the device: no update waits for the host.
  if (config_.clip_norm > 0) clip_scale = (config_.clip_norm / (norm + 1e-6)).clamp_max(1.0).view({1});
  for (const bool decays : {true, false}) {
    for (const bool split : {true, false}) {
      const Lists lists = lists_of(decays, split);
      const AdamwOptions options{lr, config_.beta1, config_.beta2, config_.eps, decays ? config_.weight_decay : 0.0, step};
      adamw_split_list_(lists.weights, lists.master_lows, lists.grads, lists.exp_avgs, lists.exp_avg_sqs, clip_scale, options);
    }
  }
  drop_grads();
}

void AdamW::drop_grads() {
  for (Slot& slot : slots_) slot.weight.mutable_grad() = at::Tensor();
}

void reset_masters(const NamedTensors& optim_state, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    if (const at::Tensor* low = optim_state.find("master_low." + name)) low->zero_();
  }
}

}  // namespace qkr
