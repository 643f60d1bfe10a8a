#include "trainer/model/prefix_plan.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace qkr {
namespace {

using Ids = std::vector<int32_t>;

int64_t shared_length(const Ids& a, const Ids& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

// The last step before `step` that runs over position start, which is a chunk's end there: it keeps its states.
void keep_for(std::vector<PrefillStep>& steps, size_t step) {
  const int64_t start = steps[step].start;
  for (size_t i = step; i-- > 0;) {
    if (steps[i].start > start) continue;
    std::vector<int64_t>& keep = steps[i].keep;
    const auto place = std::lower_bound(keep.begin(), keep.end(), start);
    if (steps[i].start < start && (place == keep.end() || *place != start)) keep.insert(place, start);
    return;
  }
}

}  // namespace

int64_t prefill_chunk_of(int64_t length, int64_t most) {
  constexpr int64_t kLeast = 4096, kParts = 16;
  const int64_t whole = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(length, 1))));
  return std::min(most, std::max(kLeast, whole / kParts));
}

PrefillPlan plan_prefill(const std::vector<PrefillPrompt>& prompts, int64_t chunk, size_t window, bool reuse) {
  std::vector<size_t> order(prompts.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t begin = 0; begin < order.size(); begin += window) {
    const auto first = order.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = order.begin() + static_cast<std::ptrdiff_t>(std::min(begin + window, order.size()));
    std::stable_sort(first, last, [&](size_t a, size_t b) { return *prompts[a].ids < *prompts[b].ids; });
  }
  PrefillPlan plan;
  for (size_t i = 0; i < order.size(); ++i) {
    const PrefillPrompt& prompt = prompts[order[i]];
    int64_t start = 0;
    if (reuse && i > 0) {
      const int64_t shared = shared_length(*prompts[order[i - 1]].ids, *prompt.ids);
      start = std::min(shared, prompt.latest_start) / chunk * chunk;
    }
    plan.prompt_tokens += static_cast<int64_t>(prompt.ids->size());
    plan.prefilled_tokens += static_cast<int64_t>(prompt.ids->size()) - start;
    plan.steps.push_back({order[i], chunk, start, {}});
    if (start > 0) keep_for(plan.steps, i);
  }
  return plan;
}

}  // namespace qkr
