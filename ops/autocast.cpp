// What torch.autocast does to the operators. None of them may see it inside: a composite that promises fp32 sums would get its
// products rounded. What they get from outside:
//   lower   bf16 or fp16 like a linear layer beside it; the arithmetic inside stays fp32
//   widest  the widest of the dtypes given: the residual stream and the LM head are not rounded on the way
//   own     as they are: weights at rest, gradients, certificates
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

#include <set>
#include <string>

#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

enum class Rule { kLower, kLowerNotHalf, kWidest, kOwn };

// Arguments that are fp32 beside a narrower x or q: decays, states, factors.
bool stays_wide(const std::string& argument) {
  static const std::set<std::string> kWide = {"slopes", "factor", "state", "initial_state"};
  return kWide.count(argument) != 0;
}

template <class F>
void for_each_tensor(const c10::OperatorHandle& op, torch::jit::Stack* stack, F&& f) {
  const auto& arguments = op.schema().arguments();
  const size_t first = stack->size() - arguments.size();
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& value = (*stack)[first + i];
    if (value.isTensor() && !stays_wide(arguments[i].name())) f(value);
  }
}

template <Rule kRule>
at::ScalarType target_type(const c10::OperatorHandle& op, torch::jit::Stack* stack, c10::DeviceType device) {
  at::ScalarType type = at::autocast::get_autocast_dtype(device);
  if (kRule == Rule::kLowerNotHalf && type == at::kHalf) return at::kFloat;
  if (kRule == Rule::kWidest) {
    for_each_tensor(op, stack, [&](const c10::IValue& value) {
      const Tensor& t = value.toTensor();
      if (at::autocast::is_eligible(t, device)) type = at::promote_types(type, t.scalar_type());
    });
  }
  return type;
}

template <Rule kRule, c10::DeviceType kDevice>
void autocast_key(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  if constexpr (kRule != Rule::kOwn) {
    const at::ScalarType type = target_type<kRule>(op, stack, kDevice);
    for_each_tensor(op, stack, [&](c10::IValue& value) { value = at::autocast::cached_cast(type, value.toTensor(), kDevice); });
  }
  op.callBoxed(stack);
}

template <c10::DeviceType kDevice>
void register_rules(torch::Library& m) {
  const auto by = [&](auto kernel, std::initializer_list<const char*> names) {
    for (const char* name : names) m.impl(name, kernel());
  };
  by([] { return torch::CppFunction::makeFromBoxedFunction<&autocast_key<Rule::kLower, kDevice>>(); },
     {"rms_norm", "gated_rms_norm", "qk_norm_rope", "qk_norm_rope_pair", "swiglu", "sigmoid_gate"});
  by([] { return torch::CppFunction::makeFromBoxedFunction<&autocast_key<Rule::kLowerNotHalf, kDevice>>(); },
     {"lightning_attention", "lightning_attention_step_"});
  by([] { return torch::CppFunction::makeFromBoxedFunction<&autocast_key<Rule::kWidest, kDevice>>(); },
     {"add_rms_norm", "answer_logprobs", "needle_attention"});
  by([] { return torch::CppFunction::makeFromBoxedFunction<&autocast_key<Rule::kOwn, kDevice>>(); },
     {"adamw_split_", "adamw_split_list_", "split_master", "join_master", "round_once", "polar", "procrustes", "embed_tokens",
      "embedding_grad", "_rms_norm_fwd", "_rms_norm_bwd", "_qk_norm_rope_bwd", "_qk_norm_rope_pair_bwd",
      "_swiglu_bwd", "_sigmoid_gate_bwd", "_lightning_attention_bwd"});
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(AutocastCPU, m) { qkr::register_rules<c10::DeviceType::CPU>(m); }
QKR_LIBRARY_IMPL(AutocastCUDA, m) { qkr::register_rules<c10::DeviceType::CUDA>(m); }
