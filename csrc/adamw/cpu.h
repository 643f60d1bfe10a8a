// One AdamW step of the elements [begin, end): callers split a tensor over threads as they like, elements are independent.
#pragma once

#include "csrc/adamw/params.h"

namespace qkr {

void adamw_cpu(const AdamwParams<Fp32Master, float>& p, int64_t begin, int64_t end);
void adamw_cpu(const AdamwParams<Fp32Master, Bf16>& p, int64_t begin, int64_t end);
void adamw_cpu(const AdamwParams<SplitMaster, float>& p, int64_t begin, int64_t end);
void adamw_cpu(const AdamwParams<SplitMaster, Bf16>& p, int64_t begin, int64_t end);

}  // namespace qkr
