#include "trainer/probe/engine.h"

#include <ATen/DeviceAccelerator.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/core/text.h"
#include "trainer/model/batch_decoder.h"
#include "trainer/model/prefix_prefill.h"
#include "trainer/probe/generator.h"

namespace qkr {
namespace {

constexpr int64_t kMostSlots = 32, kMostSlotsOnCpu = 8;
// Results are reported in the order of the items, so a window of prompts that are reordered is what a killed probe can lose.
constexpr int64_t kWindow = 16;

int64_t peak_bytes(at::Device device) {
  if (!device.is_cuda()) return 0;
  const auto stats = at::accelerator::getDeviceStats(device.index());
  return stats.reserved_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

// [begin, end) of requests that follow one another and are of one cell length.
template <class Request, class Visit>
void for_each_section(const std::vector<Request>& requests, const Visit& visit) {
  for (size_t begin = 0, end = 0; begin < requests.size(); begin = end) {
    while (end < requests.size() && requests[end].cell_length == requests[begin].cell_length) ++end;
    visit(std::vector<Request>(requests.begin() + static_cast<std::ptrdiff_t>(begin), requests.begin() + static_cast<std::ptrdiff_t>(end)));
  }
}

PrefillPlan plan_of(const std::vector<PrefillPrompt>& prompts, int64_t cell_length, int64_t batch, const EngineOptions& options, EngineUse* use) {
  int64_t longest = cell_length;
  if (longest <= 0) {
    for (const PrefillPrompt& prompt : prompts) longest = std::max(longest, static_cast<int64_t>(prompt.ids->size()));
  }
  const int64_t chunk = prefill_chunk_of(longest, options.prefill_chunk);
  PrefillPlan plan = plan_prefill(prompts, chunk, static_cast<size_t>(std::max(kWindow, batch)), options.share_prefixes);
  use->prompts += static_cast<int64_t>(prompts.size());
  use->prompt_tokens += plan.prompt_tokens;
  use->prefilled_tokens += plan.prefilled_tokens;
  return plan;
}

// The prompts of one section, `slots` at a time.
class TextSection {
 public:
  TextSection(const Decoder& decoder, const std::vector<TextRequest>& requests, const EngineOptions& options, EngineUse* use)
      : requests_(requests), options_(options), use_(use), prefill_(decoder) {
    int64_t capacity = 0;
    for (const TextRequest& r : requests) capacity = std::max(capacity, static_cast<int64_t>(r.prompt->size()) + r.max_new_tokens);
    capacity = (capacity + 63) / 64 * 64 + 1;
    const int64_t most = std::min<int64_t>(decoder.device().is_cuda() ? kMostSlots : kMostSlotsOnCpu, static_cast<int64_t>(requests.size()));
    const int64_t slots = options.batch > 0 ? std::min<int64_t>(options.batch, static_cast<int64_t>(requests.size()))
                                            : slots_that_fit(decoder, capacity, prefill_chunk_of(capacity, options.prefill_chunk), most);
    batch_ = std::make_unique<BatchDecoder>(decoder, slots, capacity, options.record_steps);
    use->batch = std::max(use->batch, slots);
    use->not_recorded = batch_->why_not_recorded();
  }

  void run() {
    std::vector<PrefillPrompt> prompts;
    for (const TextRequest& r : requests_) prompts.push_back({r.prompt, static_cast<int64_t>(r.prompt->size()) - 1});
    const PrefillPlan plan = plan_of(prompts, requests_[0].cell_length, batch_->slots(), options_, use_);
    const size_t slots = static_cast<size_t>(batch_->slots());
    for (size_t begin = 0; begin < plan.steps.size(); begin += slots) {
      going_.clear();
      for (size_t i = begin; i < std::min(begin + slots, plan.steps.size()); ++i) begin_one(static_cast<int64_t>(i - begin), plan.steps[i]);
      while (!going_.empty()) step();
    }
  }

 private:
  struct Going {
    int64_t slot = 0;
    const TextRequest* request = nullptr;
    std::vector<int32_t> made;
    double seconds = 0;
  };

  void begin_one(int64_t slot, const PrefillStep& step) {
    Lap lap;
    Going one{slot, &requests_[step.prompt], {}, 0};
    DecoderCache cache = batch_->prefill_cache(slot);
    const at::Tensor hidden = prefill_.run(*one.request->prompt, step, cache);
    const int64_t token = batch_->start(slot, cache, hidden);
    one.seconds = lap.seconds();
    use_->prefill_seconds += one.seconds;
    if (!take(one, token)) going_.push_back(std::move(one));
  }

  void step() {
    Lap lap;
    const std::vector<int64_t> tokens = batch_->step();
    const double seconds = lap.seconds();
    use_->step_seconds += seconds;
    ++use_->steps;
    const double share = seconds / static_cast<double>(going_.size());
    std::erase_if(going_, [&](Going& one) {
      one.seconds += share;
      return take(one, tokens[static_cast<size_t>(one.slot)]);
    });
  }

  // True if that was the last token.
  bool take(Going& one, int64_t token) {
    one.made.push_back(static_cast<int32_t>(token));
    ++use_->new_tokens;
    if (!one.request->stop(one.made) && static_cast<int64_t>(one.made.size()) < one.request->max_new_tokens) return false;
    batch_->stop(one.slot);
    one.request->done(std::move(one.made), one.seconds);
    return true;
  }

  const std::vector<TextRequest>& requests_;
  const EngineOptions& options_;
  EngineUse* use_;
  PrefixPrefill prefill_;
  std::unique_ptr<BatchDecoder> batch_;
  std::vector<Going> going_;
};

void read_section(const Decoder& decoder, const std::vector<ReadRequest>& requests, const EngineOptions& options, EngineUse* use) {
  std::vector<std::vector<int32_t>> fed;  // what follows the last token is not asked for
  for (const ReadRequest& r : requests) {
    check_answer_place(*r.ids, r.first);
    fed.emplace_back(r.ids->begin(), r.ids->end() - 1);
  }
  std::vector<PrefillPrompt> prompts;
  DecoderCache cache;
  for (size_t i = 0; i < fed.size(); ++i) {
    prompts.push_back({&fed[i], requests[i].first - 1});
    cache.capacity = std::max(cache.capacity, static_cast<int64_t>(fed[i].size()));
  }
  PrefixPrefill prefill(decoder);
  for (const PrefillStep& step : plan_of(prompts, requests[0].cell_length, 1, options, use).steps) {
    Lap lap;
    const ReadRequest& request = requests[step.prompt];
    AnswerScore score;
    cache.length = 0;
    for (LayerCache& layer : cache.layers) layer.state = at::Tensor();
    prefill.run(fed[step.prompt], step, cache, [&](const at::Tensor& hidden, int64_t begin) {
      add_answer_scores(decoder, hidden, begin, *request.ids, request.first, &score);
    });
    const double seconds = lap.seconds();
    use->prefill_seconds += seconds;
    request.done(std::move(score), seconds);
  }
}

}  // namespace

std::string use_text(const EngineUse& use) {
  if (use.prompts == 0) return "";
  const auto in_seconds = [](int64_t count, double seconds) {
    return seconds > 0 ? concat(" in ", fixed(seconds, 2), " s, ", fixed(static_cast<double>(count) / seconds, 0), " a second") : "";
  };
  std::string text = concat("prefilled ", use.prefilled_tokens, " of ", use.prompt_tokens, " prompt tokens (",
                            fixed(100.0 * static_cast<double>(use.prefilled_tokens) / static_cast<double>(use.prompt_tokens), 0),
                            "%, beginnings that prompts share once)", in_seconds(use.prefilled_tokens, use.prefill_seconds));
  if (use.new_tokens > 0) {
    text += concat("; decoded ", use.new_tokens, " tokens", use.steps > 0 ? concat(" in ", fixed(use.step_seconds, 2), " s") : "", ", ",
                   use.batch == 1 ? std::string("one prompt") : concat("up to ", use.batch, " prompts"), " at a time");
    if (use.steps > 0) text += concat(", ", fixed(1e3 * use.step_seconds / static_cast<double>(use.steps), 2), " ms a step");
    text += use.not_recorded.empty() ? ", one CUDA graph a step" : concat(", no CUDA graph: ", use.not_recorded);
  }
  return text + (use.peak_bytes > 0 ? concat("; the process held ", human_bytes(use.peak_bytes), " of GPU memory at most") : "");
}

TextEngine text_engine(const Decoder& decoder, const EngineOptions& options, EngineUse* use) {
  return [&decoder, options, use](const std::vector<TextRequest>& requests) {
    for_each_section(requests, [&](const std::vector<TextRequest>& section) { TextSection(decoder, section, options, use).run(); });
    use->peak_bytes = peak_bytes(decoder.device());
  };
}

ReadEngine read_engine(const Decoder& decoder, const EngineOptions& options, EngineUse* use) {
  return [&decoder, options, use](const std::vector<ReadRequest>& requests) {
    for_each_section(requests, [&](const std::vector<ReadRequest>& section) { read_section(decoder, section, options, use); });
    use->peak_bytes = peak_bytes(decoder.device());
  };
}

}  // namespace qkr
