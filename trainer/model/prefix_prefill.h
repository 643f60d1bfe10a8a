// Prefill in chunks, going on from what the prompt before left where both begin alike.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "trainer/model/decoder.h"
#include "trainer/model/prefix_plan.h"

namespace qkr {

class PrefixPrefill {
 public:
  explicit PrefixPrefill(const Decoder& decoder) : decoder_(decoder) {}

  // hidden states [count, hidden] of tokens begin, begin + 1, ...; called after each chunk.
  using Visitor = std::function<void(const at::Tensor& hidden, int64_t begin)>;

  // The tokens of ids into `cache`, which is empty but may hold room for k and v; those before step.start are taken from the
  // cache of the call before, whose k and v must still hold them. Steps come in the order of their plan. Returns the last token's
  // hidden state [1, hidden].
  at::Tensor run(const std::vector<int32_t>& ids, const PrefillStep& step, DecoderCache& cache, const Visitor& visit = {});

  // Nothing is left of earlier calls: the next step must start at 0.
  void forget();

 private:
  void take_prefix(int64_t start, DecoderCache& cache);

  const Decoder& decoder_;
  std::vector<LayerCache> before_;                          // k and v of the call before
  std::map<int64_t, std::vector<at::Tensor>> states_;  // by position, of every layer; undefined for softmax
};

}  // namespace qkr
