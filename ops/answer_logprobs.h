// How sure a language model is of given answers, from its hidden states: the LM head at the answers' positions alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace qkr {

// For each a: z = head_weight hidden[positions[a]] in fp32 (fp64 for fp64 input), its products and sums unrounded, then
//   logprob[a] = z[targets[a]] - log sum_v exp z[v]
//   rank[a]    = how many v have z[v] > z[targets[a]], or the same and a smaller index: 0 says that greedy decoding takes it.
// Logits exist for a slice of the positions, fp32 weights for a slice of the vocabulary. No derivative. Positions and targets out of
// range are errors, for which the call waits for the device.
std::tuple<at::Tensor,              // logprob [A] fp32 (fp64)
           at::Tensor>              // rank [A] int64
answer_logprobs(const at::Tensor& hidden,       // [N, D] bf16, fp16, fp32 or fp64
                const at::Tensor& head_weight,  // [V, D], the same dtype
                const at::Tensor& positions,    // [A] int64 in [0, N)
                const at::Tensor& targets);     // [A] int64 in [0, V)

}  // namespace qkr
