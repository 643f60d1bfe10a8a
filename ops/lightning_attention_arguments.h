// Between the dispatcher and what computes: the arguments in one piece, and the checks that all devices share.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace qkr {

struct LightningArguments {
  const at::Tensor &q, &k, &v;   // [N, H, D], [N, H_kv, D], [N, H_kv, D]
  const at::Tensor& slopes;      // [H]
  const at::Tensor& cu_seqlens;  // [S + 1]
  const std::optional<at::Tensor>& initial_state;
  double scale;
  bool accurate;

  bool has_initial() const { return initial_state.has_value() && initial_state->defined(); }
};

struct LightningStepArguments {
  const at::Tensor &q, &k, &v, &slopes, &state;
  double scale;
};

using LightningResult = std::tuple<at::Tensor, at::Tensor>;                         // o, final_state
using LightningGrads = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;  // of q, k, v, initial_state

// Refuse alike on every device, sizes unknown at trace time included.
void check_lightning(const LightningArguments& a);
void check_lightning_grad(const at::Tensor& grad_o, const std::optional<at::Tensor>& grad_state,
                          const LightningArguments& a);
void check_lightning_step(const LightningStepArguments& a);

// The results, not yet written. A state that is not wanted, or has no initial one to be the gradient of, is [0, H, D,
// D].
LightningResult lightning_results(const LightningArguments& a, bool with_state);
LightningGrads lightning_grads(const LightningArguments& a);

}  // namespace qkr
