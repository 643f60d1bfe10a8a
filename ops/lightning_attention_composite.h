// Lightning attention by batched products over chunks, for any device, float type and head size: never token by token,
// no value of cu_seqlens read by the host. bf16 is computed in fp32.
#pragma once

#include "ops/lightning_attention_arguments.h"

namespace qkr {

LightningResult lightning_composite(const LightningArguments& a, bool with_state);
LightningGrads lightning_composite_grad(const at::Tensor& grad_o, const std::optional<at::Tensor>& grad_state,
                                        const LightningArguments& a);
at::Tensor lightning_composite_step(const LightningStepArguments& a);

// Key and value heads repeated for their query heads: [N, H_kv, D] -> [N, heads, D]; and a gradient's way back.
at::Tensor repeat_heads(const at::Tensor& x, int64_t heads);
at::Tensor sum_repeated_heads(const at::Tensor& grad, int64_t kv_heads);

}  // namespace qkr
