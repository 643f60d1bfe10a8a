// Greedy decoding of one sequence.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "trainer/model/decoder.h"

namespace qkr {

struct GreedyOptions {
  int64_t max_new_tokens = 128;
  int64_t reserve_tokens = 0;        // room made in the cache for new tokens; 0: max_new_tokens. It grows when that is too small
  int64_t prefill_chunk = 32768;     // tokens of one prefill call: bounds activations, not the cache
  std::vector<int64_t> stop_ids;     // decoding ends when one of these is chosen; it is not part of the result
  // Called after each new token with all of them; true ends the decoding. May be empty.
  std::function<bool(const std::vector<int32_t>&)> stop;
};

// The new tokens. `prompt` must not be empty. Runs without autograd; the head sees the last position alone.
std::vector<int32_t> generate_greedy(const Decoder& decoder, const std::vector<int32_t>& prompt, const GreedyOptions& options);

}  // namespace qkr
