#include "trainer/model/step_attention.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "trainer/model/any_algorithm.h"

namespace qkr {
namespace {

at::Tensor all_rows(const at::Tensor& slots) { return slots.view({slots.size(0) * slots.size(1), slots.size(2), slots.size(3)}); }

// One sequence: q [H, D], the last `window` of its k and v [T, KV, D] → [1, H, D].
at::Tensor attend_one(const at::Tensor& q, at::Tensor k, at::Tensor v, int64_t window) {
  if (window > 0 && k.size(0) > window) {
    k = k.narrow(0, k.size(0) - window, window);
    v = v.narrow(0, v.size(0) - window, window);
  }
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };  // [1, KV, T, D]
  return at::scaled_dot_product_attention(q.unsqueeze(1).unsqueeze(0), heads_first(k), heads_first(v), std::nullopt, 0.0, false,
                                          std::nullopt, q.size(0) != k.size(1))
      .squeeze(2);
}

}  // namespace

StepRows step_rows(const BatchCache& cache, bool flash) {
  const int64_t sequences = cache.lengths.size(0);
  const at::TensorOptions ints = cache.lengths.options().dtype(at::kInt);
  StepRows step;
  step.capacity = cache.capacity;
  step.flash = flash;
  step.rows = at::arange(sequences, cache.lengths.options()) * cache.capacity + cache.lengths;
  step.cu_queries = at::arange(sequences + 1, ints);
  step.cu_slots = step.cu_queries * cache.capacity;
  step.used = (cache.lengths + 1).to(at::kInt);
  if (flash) return step;
  step.host_used = cache.host_lengths;
  for (int64_t& used : step.host_used) ++used;
  return step;
}

at::Tensor attend_step(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const LayerCache& cache,
                       const StepRows& step, int64_t window) {
  {
    const AnyAlgorithm rows_are_distinct;  // the deterministic index_copy sorts the indices first, with some ten launches
    all_rows(cache.k).index_copy_(0, step.rows, k);
    all_rows(cache.v).index_copy_(0, step.rows, v);
  }
  if (step.flash) {
    // is_causal would keep the kernel from splitting one long sequence over the device, and one query needs no mask but a window's.
    const bool windowed = window > 0;
    return std::get<0>(at::_flash_attention_forward(
        q.contiguous(), all_rows(cache.k), all_rows(cache.v), step.cu_queries, step.cu_slots, 1, step.capacity, 0.0, windowed, false,
        std::nullopt, windowed ? std::optional<int64_t>(window - 1) : std::nullopt, windowed ? std::optional<int64_t>(0) : std::nullopt,
        step.used));
  }
  std::vector<at::Tensor> outputs;
  for (int64_t b = 0; b < q.size(0); ++b) {
    const int64_t used = step.host_used[static_cast<size_t>(b)];
    outputs.push_back(attend_one(q[b], cache.k[b].narrow(0, 0, used), cache.v[b].narrow(0, 0, used), window));
  }
  return at::cat(outputs, 0);
}

}  // namespace qkr
