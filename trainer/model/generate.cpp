#include "trainer/model/generate.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "trainer/core/error.h"

namespace qkr {
namespace {

at::Tensor ids_on(const std::vector<int32_t>& ids, int64_t begin, int64_t count, at::Device device) {
  at::Tensor part = at::empty({count}, at::kLong);
  std::copy_n(ids.begin() + begin, count, part.data_ptr<int64_t>());
  return part.to(device);
}

}  // namespace

std::vector<int32_t> generate_greedy(const Decoder& decoder, const std::vector<int32_t>& prompt, const GreedyOptions& options) {
  if (prompt.empty()) fail("generate: the prompt must have a token, got none");
  const c10::InferenceMode no_autograd;
  const int64_t length = static_cast<int64_t>(prompt.size());
  DecoderCache cache;
  cache.capacity = length + (options.reserve_tokens > 0 ? options.reserve_tokens : options.max_new_tokens);
  at::Tensor hidden;
  for (int64_t begin = 0; begin < length; begin += options.prefill_chunk) {
    const int64_t count = std::min(options.prefill_chunk, length - begin);
    hidden = decoder.forward(ids_on(prompt, begin, count, decoder.device()),
                             Segments::continued(begin, count, decoder.device()), &cache);
  }
  std::vector<int32_t> made;
  while (static_cast<int64_t>(made.size()) < options.max_new_tokens) {
    const at::Tensor next = decoder.logits(hidden.narrow(0, hidden.size(0) - 1, 1)).argmax(1);  // [1], stays on the device
    const int64_t id = next.item<int64_t>();
    if (std::find(options.stop_ids.begin(), options.stop_ids.end(), id) != options.stop_ids.end()) break;
    made.push_back(static_cast<int32_t>(id));
    if (options.stop && options.stop(made)) break;
    if (static_cast<int64_t>(made.size()) == options.max_new_tokens) break;
    hidden = decoder.forward(next, Segments::continued(cache.length, 1, decoder.device()), &cache);
  }
  return made;
}

}  // namespace qkr
