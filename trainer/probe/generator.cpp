#include "trainer/probe/generator.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <limits>

#include "ops/answer_logprobs.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/model/generate.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

constexpr int64_t kSliceRows = 4096;  // integer copies of so many rows exist at a time

at::ScalarType bits_type(const at::Tensor& t) {
  switch (t.element_size()) {
    case 1: return at::kByte;
    case 2: return at::kShort;
    case 4: return at::kInt;
    default: return at::kLong;
  }
}

void add_sums(Sha256* digest, const at::Tensor& sums) {
  const at::Tensor host = sums.cpu().contiguous();
  digest->add(host.const_data_ptr<int64_t>(), static_cast<size_t>(host.numel()) * sizeof(int64_t));
}

}  // namespace

Generator greedy_text(const Decoder& decoder, int64_t prefill_chunk) {
  return [&decoder, prefill_chunk](const std::vector<int32_t>& prompt, const StopRule& stop) {
    GreedyOptions options;
    options.max_new_tokens = std::numeric_limits<int32_t>::max();
    options.reserve_tokens = 256;
    options.prefill_chunk = prefill_chunk;
    options.stop = stop;
    return generate_greedy(decoder, prompt, options);
  };
}

void check_answer_place(const std::vector<int32_t>& ids, int64_t first) {
  const int64_t length = static_cast<int64_t>(ids.size());
  if (first < 1 || first >= length) fail("answer: must begin in 1 .. ", length - 1, ", got ", first);
}

void add_answer_scores(const Decoder& decoder, const at::Tensor& hidden, int64_t begin, const std::vector<int32_t>& ids, int64_t first,
                       AnswerScore* score) {
  const int64_t end = std::min(begin + hidden.size(0), static_cast<int64_t>(ids.size()) - 1);  // the last token predicts none of ids
  const int64_t from = std::max(first - 1, begin);                                             // the position before an answer token predicts it
  if (from >= end) return;
  const at::Tensor head = decoder.weights().at(decoder.architecture().tied ? kEmbeddingName : kHeadName);
  const at::Tensor targets = at::tensor(std::vector<int64_t>(ids.begin() + from + 1, ids.begin() + end + 1), at::kLong).to(hidden.device());
  const at::Tensor positions = at::arange(from - begin, end - begin, targets.options());
  const auto [logprob, rank] = answer_logprobs(hidden, head, positions, targets);
  const at::Tensor logprobs = logprob.to(at::kDouble).cpu(), ranks = rank.cpu();
  score->logprobs.insert(score->logprobs.end(), logprobs.const_data_ptr<double>(), logprobs.const_data_ptr<double>() + logprobs.numel());
  score->ranks.insert(score->ranks.end(), ranks.const_data_ptr<int64_t>(), ranks.const_data_ptr<int64_t>() + ranks.numel());
}

AnswerReader answer_reader(const Decoder& decoder, int64_t prefill_chunk) {
  return [&decoder, prefill_chunk](const std::vector<int32_t>& ids, int64_t first) {
    const c10::InferenceMode no_autograd;
    check_answer_place(ids, first);
    const int64_t length = static_cast<int64_t>(ids.size());
    const at::Tensor tokens = at::tensor(ids, at::kLong).to(decoder.device());
    DecoderCache cache;
    cache.capacity = length;
    AnswerScore score;
    for (int64_t begin = 0; begin < length - 1; begin += prefill_chunk) {  // what follows the last token is not asked for
      const int64_t count = std::min(prefill_chunk, length - 1 - begin);
      const at::Tensor hidden =
          decoder.forward(tokens.narrow(0, begin, count), Segments::continued(begin, count, decoder.device()), &cache);
      add_answer_scores(decoder, hidden, begin, ids, first, &score);
    }
    return score;
  };
}

std::string weights_digest(const NamedTensors& weights, const std::string& settings) {
  const c10::InferenceMode no_autograd;
  Sha256 digest;
  digest.add(settings);
  for (const auto& [name, weight] : weights) {
    digest.add(concat("\n", name, " ", c10::toString(weight.scalar_type()), " ", weight.sizes(), "\n"));
    if (weight.numel() == 0) continue;
    const at::Tensor whole = weight.detach().contiguous();
    const at::Tensor rows = whole.view({whole.dim() < 2 ? 1 : whole.size(0), -1}).view(bits_type(whole));
    at::Tensor columns = at::zeros({rows.size(1)}, rows.options().dtype(at::kLong));
    for (int64_t begin = 0; begin < rows.size(0); begin += kSliceRows) {
      const at::Tensor slice = rows.narrow(0, begin, std::min(kSliceRows, rows.size(0) - begin)).to(at::kLong);
      add_sums(&digest, slice.sum(1));
      columns += slice.sum(0);
    }
    add_sums(&digest, columns);
  }
  return digest.hex().substr(0, 16);
}

}  // namespace qkr
