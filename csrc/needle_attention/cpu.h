// The same by plain loops.
#pragma once

#include "csrc/needle_attention/params.h"

namespace qkr {

// The results [begin, end) of the H M ones as they lie in memory: callers split them over threads as they like. Products
// and exponents in fp32, sums over keys in fp64.
void needle_attention_cpu(const NeedleAttentionParams<float>& p, int64_t begin, int64_t end);
void needle_attention_cpu(const NeedleAttentionParams<Bf16>& p, int64_t begin, int64_t end);

}  // namespace qkr
