#include "trainer/model/prefix_prefill.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "trainer/core/error.h"

namespace qkr {

void PrefixPrefill::forget() {
  before_.clear();
  states_.clear();
}

void PrefixPrefill::take_prefix(int64_t start, DecoderCache& cache) {
  states_.erase(states_.upper_bound(start), states_.end());
  const auto kept = states_.find(start);
  TORCH_INTERNAL_ASSERT(kept != states_.end() && before_.size() == cache.layers.size(), "no states kept at ", start);
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    LayerCache& layer = cache.layers[i];
    const at::Tensor& state = kept->second[i];
    if (state.defined()) layer.state = state.clone();  // a step of one token changes it in place
    if (!before_[i].k.defined()) continue;
    const auto take = [start](at::Tensor& to, const at::Tensor& from) {
      if (!to.defined()) {
        to = from;  // the call before is over: its cache goes on as this one's
      } else if (to.data_ptr() != from.data_ptr()) {
        to.narrow(0, 0, start).copy_(from.narrow(0, 0, start));
      }
    };
    take(layer.k, before_[i].k);
    take(layer.v, before_[i].v);
  }
  cache.length = start;
}

at::Tensor PrefixPrefill::run(const std::vector<int32_t>& ids, const PrefillStep& step, DecoderCache& cache, const Visitor& visit) {
  const c10::InferenceMode no_autograd;
  const int64_t length = static_cast<int64_t>(ids.size());
  if (length == 0) fail("prefill: the prompt must have a token, got none");
  cache.layers.resize(decoder_.architecture().layers.size());
  if (step.start > 0) {
    take_prefix(step.start, cache);
  } else {
    states_.clear();
  }
  const at::Tensor tokens = at::tensor(ids, at::kLong).to(decoder_.device());
  at::Tensor hidden;
  for (int64_t begin = step.start; begin < length; begin += step.chunk) {
    const int64_t count = std::min(step.chunk, length - begin);
    hidden = decoder_.forward(tokens.narrow(0, begin, count), Segments::continued(begin, count, decoder_.device()), &cache);
    if (visit) visit(hidden, begin);
    if (!std::binary_search(step.keep.begin(), step.keep.end(), begin + count)) continue;
    std::vector<at::Tensor>& kept = states_[begin + count];
    kept.clear();
    for (const LayerCache& layer : cache.layers) kept.push_back(layer.state.defined() ? layer.state.clone() : at::Tensor());
  }
  before_ = cache.layers;
  for (LayerCache& layer : before_) layer.state = at::Tensor();
  return hidden.narrow(0, hidden.size(0) - 1, 1);
}

}  // namespace qkr
