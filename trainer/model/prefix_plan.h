// Prompts that begin alike are prefilled once up to where they part. Which, in which order, and what has to be kept: pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace qkr {

// Tokens of one prefill call for prompts of about `length`: a sixteenth of it, because a prefix can be cut at a chunk's end alone, but
// 4,096 at least, below which a GPU waits for its launches, and never more than `most`. Lengths count as the next power of two.
// Chunks begin at multiples of this with and without reuse, so both give the same bits.
int64_t prefill_chunk_of(int64_t length, int64_t most);

struct PrefillPrompt {
  const std::vector<int32_t>* ids = nullptr;
  int64_t latest_start = 0;  // tokens from here on must be computed for this prompt; at most the last token's place
};

struct PrefillStep {
  size_t prompt = 0;          // which of the prompts
  int64_t chunk = 0;
  int64_t start = 0;          // a multiple of chunk: so many tokens are taken from the step before
  std::vector<int64_t> keep;  // ascending: positions at which the states must be kept, because a later step starts there
};

struct PrefillPlan {
  std::vector<PrefillStep> steps;
  int64_t prompt_tokens = 0, prefilled_tokens = 0;  // without and with reuse
};

// Every prompt once. `window` neighbours are put in the order of a walk through the tree of their prefixes, in which they share most;
// windows stay in order (1: all as they come). reuse false: the same steps, each from its first token.
PrefillPlan plan_prefill(const std::vector<PrefillPrompt>& prompts, int64_t chunk, size_t window, bool reuse);

}  // namespace qkr
