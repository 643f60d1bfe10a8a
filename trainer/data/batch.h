// What the data room hands to the loop: samples as token ids with a mask, and packed rows of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace qkr {

constexpr int64_t kIgnoreLabel = -100;

// One conversation, document or pair, tokenised.
struct Sample {
  std::vector<int32_t> ids;
  std::vector<uint8_t> trained;  // 1: the loss is taken on predicting this token (HF's label != -100)
  int64_t file = 0;              // index in data.train
  int64_t line = 0;              // 1-based, for messages

  int64_t size() const { return static_cast<int64_t>(ids.size()); }
};

// One or more samples end to end, without padding. S samples, N tokens.
struct Batch {
  at::Tensor tokens;                // [N] int64, CPU
  at::Tensor targets;               // [N] int64, CPU: the token that position t must predict, kIgnoreLabel where there is none
  std::vector<int64_t> cu_seqlens;  // [S + 1]: 0, end of the first sample, ..., N
  int64_t labelled = 0;             // how many targets are not kIgnoreLabel
};

// Samples (indices into a Dataset) that share a packed row, in order.
using Row = std::vector<int64_t>;

}  // namespace qkr
