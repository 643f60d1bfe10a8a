// How much of each softmax head's attention falls on a range of keys, for a few queries: whether a head still finds the needle.
#pragma once

#include <ATen/core/Tensor.h>

namespace qkr {

// mass[h, m] = sum of softmax(scale q[m, h] . k[0 .. positions[m], h / (H / KV)]) over the keys key_ranges[m][0] <= j < key_ranges[m][1];
// formula: csrc/needle_attention/params.h. q holds the rows of the queries alone, not of the whole sequence: query m stands at
// query_positions[m], so that a cache's keys and a few rows of q are enough. Only keys that exist and that the query sees count:
// positions and ranges out of bounds are no errors, and nothing waits for the device. Where there is no such key the mass is 0.
// Products and sums in fp32 (on a CPU the sums over keys in fp64); K is read, never an [M, N] matrix made. Deterministic; no derivative.
at::Tensor needle_attention(          // [H, M] fp32
    const at::Tensor& q,                // [M, H, D] bf16 or fp32, D at most 1024
    const at::Tensor& k,                // [N, KV, D], the same dtype; KV divides H
    const at::Tensor& query_positions,  // [M] int64, counted as the rows of k
    const at::Tensor& key_ranges,       // [M, 2] int64
    double scale);

// Outputs alone, not written.
at::Tensor needle_attention_meta(const at::Tensor& q, const at::Tensor& k, const at::Tensor& query_positions,
                                 const at::Tensor& key_ranges, double scale);

}  // namespace qkr
