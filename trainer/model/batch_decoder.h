// Greedy decoding of several sequences at once, each at its own length. On CUDA a step is one launch: a recorded CUDA graph.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/recorded_step.h"
#include "trainer/model/decoder.h"

namespace qkr {

class BatchDecoder {
 public:
  // `slots` sequences of up to `capacity` tokens, prompt included. The decoder must outlive it, with its weights where they are;
  // their values may change. record: try a CUDA graph.
  BatchDecoder(const Decoder& decoder, int64_t slots, int64_t capacity, bool record);

  int64_t slots() const { return static_cast<int64_t>(active_.size()); }
  int64_t capacity() const { return cache_.capacity; }
  const std::string& why_not_recorded() const { return why_not_; }  // "": a step is one recorded launch

  // A cache for the prefill of one slot's prompt: its k and v are the slot's rows, its states are its own.
  DecoderCache prefill_cache(int64_t slot) const;
  // The slot's sequence is what `cache` (its prefill_cache, filled) holds; its newest token is the most likely one after
  // `hidden` [1, hidden], which is returned. The slot takes part in steps from now on.
  int64_t start(int64_t slot, const DecoderCache& cache, const at::Tensor& hidden);
  // The slot waits for its next start.
  void stop(int64_t slot);

  // Every active sequence takes its newest token in and finds the next; those of all slots are returned (an inactive one's has no
  // meaning). Error: an active sequence has reached the capacity.
  std::vector<int64_t> step();

 private:
  void launch_step();

  const Decoder& decoder_;
  BatchCache cache_;
  at::Tensor tokens_, counted_;   // [B] int64: newest tokens; 1 where active
  std::vector<bool> active_;
  std::string why_not_ = "not asked for";
  std::unique_ptr<RecordedStep> recorded_;  // last: destroyed before what it works on
};

// Bytes that one more slot takes.
int64_t slot_bytes(const Architecture& architecture, at::ScalarType dtype, int64_t capacity);

// How many slots of `capacity` tokens fit beside the weights and a prefill of `chunk` tokens, 1 .. most: by the memory that is free
// now on CUDA, within 4 GB elsewhere.
int64_t slots_that_fit(const Decoder& decoder, int64_t capacity, int64_t chunk, int64_t most);

}  // namespace qkr
