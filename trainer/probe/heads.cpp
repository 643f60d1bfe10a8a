#include "trainer/probe/heads.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "ops/needle_attention.h"
#include "trainer/core/error.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr {
namespace {

// Tokens of `tokens` that lie wholly before byte `at` of the text. A prefix is tokenised like the whole but for its end, where the
// whole may have a token that goes on behind it.
int64_t tokens_before(const std::string& text, size_t at, const std::vector<int32_t>& tokens, int64_t special, const TextCodec& codec) {
  const std::vector<int32_t> prefix = codec.encode(std::string_view(text).substr(0, at));
  const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(special);
  return special + (std::mismatch(prefix.begin(), prefix.end(), from, tokens.end()).first - prefix.begin());
}

std::string needle_sentence(const NeedleItem& item) {
  if (item.task == NeedleTask::kVariableTracking) return concat("VAR ", item.value, " = ", item.key);
  const auto found = std::find_if(item.needles.begin(), item.needles.end(), [&](const Needle& n) { return n.value == item.value; });
  return found == item.needles.end() ? "" : needle_text(item.task, *found);
}

at::Tensor on_device(const std::vector<int64_t>& values, at::Device device) { return at::tensor(values, at::kLong).to(device); }

// [H, M]. A window is a cache that begins where the window of the query does.
at::Tensor masses_in_layer(const LayerCache& cache, const SoftmaxShape& shape, const NeedlePlace& place) {
  const at::Tensor& q = cache.q;  // [M, H, D]
  const int64_t first = place.answer.begin - 1, count = q.size(0);
  const double scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  std::vector<int64_t> positions, ranges;
  for (int64_t m = 0; m < count; ++m) {
    positions.push_back(first + m);
    ranges.insert(ranges.end(), {place.needle.begin, place.needle.end});
  }
  if (shape.window == 0) {
    return needle_attention(q, cache.k.narrow(0, 0, first + count), on_device(positions, q.device()),
                            on_device(ranges, q.device()).view({count, 2}), scale);
  }
  std::vector<at::Tensor> columns;
  for (int64_t m = 0; m < count; ++m) {
    const int64_t begin = std::max<int64_t>(0, positions[static_cast<size_t>(m)] + 1 - shape.window), end = positions[static_cast<size_t>(m)] + 1;
    columns.push_back(needle_attention(q.narrow(0, m, 1), cache.k.narrow(0, begin, end - begin), on_device({end - begin - 1}, q.device()),
                                       on_device({place.needle.begin - begin, place.needle.end - begin}, q.device()).view({1, 2}), scale));
  }
  return at::cat(columns, 1);
}

}  // namespace

TokenRange token_range(const std::string& text, size_t begin, size_t end, const std::vector<int32_t>& tokens, int64_t special, const TextCodec& codec) {
  TokenRange range;
  range.begin = tokens_before(text, begin, tokens, special, codec);
  range.end = tokens_before(text, end, tokens, special, codec);
  // A token that the end cuts in two belongs to the range.
  const std::vector<int32_t> prefix = codec.encode(std::string_view(text).substr(0, end));
  if (range.end < special + static_cast<int64_t>(prefix.size())) ++range.end;
  return range;
}

NeedlePlace needle_place(const NeedleItem& item, const TextCodec& codec) {
  const std::string prompt = item.mode == "base" ? item.prompt : codec.chat(item.prompt);
  const std::string before = prompt + item.answer_prefix, text = before + gold_answer(item);
  const std::string needle = needle_sentence(item);
  const size_t at = needle.empty() ? std::string::npos : prompt.find(needle), answer = text.find(item.value, before.size());
  if (at == std::string::npos || answer == std::string::npos) fail(item.id, ": must hold its needle's sentence so that heads can be looked at, got none");
  NeedlePlace place;
  place.ids = forced_input(item, codec).ids;
  const int64_t special = item.mode == "base" ? static_cast<int64_t>(codec.input_prefix.size()) : 0;
  place.needle = token_range(text, at, at + needle.size(), place.ids, special, codec);
  place.answer = token_range(text, answer, answer + item.value.size(), place.ids, special, codec);
  return place;
}

std::vector<std::vector<double>> needle_masses(const Decoder& decoder, const NeedlePlace& place, int64_t prefill_chunk) {
  const c10::InferenceMode no_autograd;
  const int64_t first = place.answer.begin - 1, last = place.answer.end - 1;  // the rows that predict the answer
  if (first < 0 || last <= first || last >= static_cast<int64_t>(place.ids.size())) {
    fail("heads: the answer must stand within the input, behind its first token, got ", place.answer.begin, " .. ", place.answer.end);
  }
  const at::Tensor tokens = at::tensor(place.ids, at::kLong).to(decoder.device());
  DecoderCache cache;
  cache.capacity = last;
  const auto read = [&](int64_t begin, int64_t count) {
    decoder.forward(tokens.narrow(0, begin, count), Segments::continued(begin, count, decoder.device()), &cache);
  };
  for (int64_t begin = 0; begin < first; begin += prefill_chunk) read(begin, std::min(prefill_chunk, first - begin));
  cache.layers.resize(decoder.architecture().layers.size());
  for (LayerCache& layer : cache.layers) layer.keep_q = true;
  read(first, last - first);
  std::vector<std::vector<double>> masses;
  for (const int64_t layer : decoder.architecture().softmax_layers()) {
    const SoftmaxShape& shape = decoder.architecture().layers[static_cast<size_t>(layer)].softmax;
    const at::Tensor mean = masses_in_layer(cache.layers[static_cast<size_t>(layer)], shape, place).mean(1).to(at::kDouble).cpu();  // [H]
    masses.emplace_back(mean.const_data_ptr<double>(), mean.const_data_ptr<double>() + mean.numel());
  }
  return masses;
}

nlohmann::ordered_json to_json(const HeadResult& result) {
  nlohmann::ordered_json mass = nlohmann::ordered_json::array();
  for (const std::vector<double>& layer : result.mass) {
    nlohmann::ordered_json row = nlohmann::ordered_json::array();
    for (const double share : layer) row.push_back(std::round(share * 1e6) / 1e6);
    mass.push_back(std::move(row));
  }
  return {{"stage", result.stage}, {"step", result.step}, {"id", result.id}, {"task", result.task}, {"length", result.length},
          {"depth", result.depth}, {"needle", {result.needle.begin, result.needle.end}}, {"answer", {result.answer.begin, result.answer.end}},
          {"model", result.model}, {"layers", result.layers}, {"mass", std::move(mass)}};
}

std::vector<HeadResult> run_heads(const std::vector<NeedleItem>& items, const Decoder& decoder, const TextCodec& codec, const HeadResult& like,
                                  int64_t prefill_chunk, const std::function<void(const HeadResult&, int64_t, int64_t)>& progress) {
  std::vector<HeadResult> results;
  for (const NeedleItem& item : items) {
    const NeedlePlace place = needle_place(item, codec);
    HeadResult result = like;
    result.id = item.id;
    result.task = needle_task_name(item.task);
    result.length = item.length;
    result.depth = item.depth;
    result.needle = place.needle;
    result.answer = place.answer;
    result.layers = decoder.architecture().softmax_layers();
    result.mass = needle_masses(decoder, place, prefill_chunk);
    results.push_back(std::move(result));
    if (progress) progress(results.back(), static_cast<int64_t>(results.size()), static_cast<int64_t>(items.size()));
  }
  return results;
}

}  // namespace qkr
