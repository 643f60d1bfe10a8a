#include "trainer/probe/runner.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/probe/scoring.h"

namespace qkr {
namespace {

int64_t token_limit(const NeedleItem& item, const ProbeOptions& options) {
  return item.max_new_tokens > 0 ? std::min(item.max_new_tokens, options.max_new_tokens)
                                 : options.max_new_tokens;
}

// Why to stop after `so_far`, or "". Only the newest tokens are decoded: an answer that ends further
// back was seen before and is no longer among the `missing`. A token adds at least a character to it,
// but for the few (half a character, a special one) that the margin is for.
std::string stop_reason(const std::vector<int32_t>& so_far, std::vector<std::string>* missing,
                        int64_t limit, const TextCodec& codec, const ProbeOptions& options) {
  if (so_far.empty()) return "";
  if (std::find(options.eos_ids.begin(), options.eos_ids.end(), so_far.back()) !=
      options.eos_ids.end())
    return "eos";
  size_t longest = 0;
  for (const std::string& answer : *missing) longest = std::max(longest, answer.size());
  const size_t window = std::min(so_far.size(), longest + 16);
  const std::string text =
      codec.decode({so_far.end() - static_cast<std::ptrdiff_t>(window), so_far.end()});
  std::erase_if(*missing, [&](const std::string& answer) { return holds_answer(text, answer); });
  if (missing->empty()) return "value";
  return static_cast<int64_t>(so_far.size()) >= limit ? "length" : "";
}

// One item between its request and its result.
struct Pending {
  ItemResult result;
  std::vector<std::string> missing;
};

ItemResult finished(ItemResult result, std::vector<int32_t> ids, double seconds, const TextCodec& codec) {
  result.seconds = seconds;
  result.generated_tokens = static_cast<int64_t>(ids.size());
  if (result.stopped == "eos" && !ids.empty()) ids.pop_back();
  result.prediction = codec.decode(ids);
  const std::string cleaned = clean_prediction(result.prediction);
  const double share = string_match(cleaned, result.outputs);
  result.score = round_2(share * 100);
  result.hit = share == 1;
  result.is_null = cleaned.empty();
  return result;
}

TextEngine one_by_one(const Generator& generate) {
  return [&generate](const std::vector<TextRequest>& requests) {
    for (const TextRequest& request : requests) {
      Lap lap;
      std::vector<int32_t> ids = generate(*request.prompt, request.stop);
      request.done(std::move(ids), lap.seconds());
    }
  };
}

}  // namespace

ItemResult result_of(const NeedleItem& item, const ProbeOptions& options) {
  ItemResult result;
  result.stage = options.stage;
  result.step = options.step;
  result.id = item.id;
  result.task = item.name.empty() ? std::string(needle_task_name(item.task)) : item.name;
  result.length = item.length;
  result.index = item.index;
  result.depth = item.depth;
  result.prompt_tokens = item.prompt_tokens;
  result.key = item.key;
  result.value = item.value;
  result.outputs = {item.value};
  result.outputs.insert(result.outputs.end(), item.other_values.begin(), item.other_values.end());
  result.mode = options.mode;
  result.reading = options.reading;
  result.haystack = item.haystack;
  result.haystack_sha256 = item.haystack_sha256;
  result.sentence_rule = item.sentence_rule;
  result.max_new_tokens = token_limit(item, options);
  result.model = options.model;
  result.tokenizer = options.tokenizer;
  result.dtype = options.dtype;
  return result;
}

void InOrder::put(size_t index, ItemResult result) {
  results_[index] = std::move(result);
  there_[index] = true;
  for (; reported_ < there_.size() && there_[reported_]; ++reported_) {
    if (progress_) progress_(results_[reported_], static_cast<int64_t>(reported_ + 1), static_cast<int64_t>(results_.size()));
  }
}

std::vector<ItemResult> InOrder::take() {
  if (reported_ < results_.size()) fail_run("probe: the result of prompt ", reported_, " of ", results_.size(), " never came");
  return std::move(results_);
}

std::vector<ItemResult> run_probe(const std::vector<NeedleItem>& items, const TextEngine& engine, const TextCodec& codec,
                                  const ProbeOptions& options, const ProbeProgress& progress) {
  if (options.max_new_tokens < 1)
    fail("probe.max_new_tokens: must be at least 1, got ", options.max_new_tokens);
  InOrder results(items.size(), progress);
  std::vector<Pending> pending(items.size());
  std::vector<TextRequest> requests;
  for (size_t i = 0; i < items.size(); ++i) {
    Pending& p = pending[i];
    p.result = result_of(items[i], options);
    p.result.stopped = "generator";
    p.missing = p.result.outputs;
    const auto stop = [&p, &codec, &options](const std::vector<int32_t>& so_far) {
      const std::string reason = stop_reason(so_far, &p.missing, p.result.max_new_tokens, codec, options);
      if (!reason.empty()) p.result.stopped = reason;
      return !reason.empty();
    };
    const auto done = [&p, &codec, &results, i](std::vector<int32_t> made, double seconds) {
      results.put(i, finished(std::move(p.result), std::move(made), seconds, codec));
    };
    requests.push_back({&items[i].ids, items[i].length, p.result.max_new_tokens, stop, done});
  }
  engine(requests);
  return results.take();
}

std::vector<ItemResult> run_probe(const std::vector<NeedleItem>& items, const Generator& generate,
                                  const TextCodec& codec, const ProbeOptions& options,
                                  const ProbeProgress& progress) {
  return run_probe(items, one_by_one(generate), codec, options, progress);
}

}  // namespace qkr
