// Items through a model: greedy text, RULER's score, one result an item.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "trainer/probe/codec.h"
#include "trainer/probe/items.h"

namespace qkr {

// Continues `prompt` greedily, one token after the other, until stop(everything generated so far)
// says so (it is asked after each token). Returns what was generated, the last token included. It
// needs no limit of its own.
using StopRule = std::function<bool(const std::vector<int32_t>& so_far)>;
using Generator =
    std::function<std::vector<int32_t>(const std::vector<int32_t>& prompt, const StopRule& stop)>;

// A prompt of many that are continued together. `done` is called once, in whatever order they end, with what a Generator returns and
// the seconds that this prompt's share took.
struct TextRequest {
  const std::vector<int32_t>* prompt = nullptr;
  int64_t cell_length = 0;     // prompts of one cell are near this many tokens
  int64_t max_new_tokens = 0;  // `stop` says so by then
  StopRule stop;
  std::function<void(std::vector<int32_t> made, double seconds)> done;
};
using TextEngine = std::function<void(const std::vector<TextRequest>&)>;

struct ProbeOptions {
  std::string stage;  // "start", "end", "restored", "step-200"
  int64_t step = 0;   // optimizer steps done
  std::string reading = "generate";
  std::string mode = "base";
  int64_t max_new_tokens = 128;
  std::vector<int32_t> eos_ids;  // any of them ends a text; none: only the limit does
  // What the results hang on beside the prompts, as short digests; "" where nobody asked for them.
  std::string model, tokenizer, dtype;
};

// One line of probe.jsonl.
struct ItemResult {
  std::string stage;
  int64_t step = 0;
  std::string id, task;
  int64_t length = 0, index = 0;
  double depth = 0;
  int64_t prompt_tokens = 0;
  std::string key, value;
  std::vector<std::string> outputs;
  std::string prediction;        // as it was decoded, end token left out
  double score = 0;              // 0 .. 100
  bool hit = false;              // every output found
  bool is_null = false;          // nothing left after cleaning
  int64_t generated_tokens = 0;  // the end token counts
  std::string stopped;  // "value": all have appeared, so the score cannot change; "eos"; "length";
                        // "generator": it gave up
  double seconds = 0;
  std::string mode, reading, haystack, haystack_sha256, sentence_rule;
  int64_t max_new_tokens = 0;            // the limit it had; 0: a row of before this was kept
  std::string model, tokenizer, dtype;  // ProbeOptions'; "" likewise
  // reading teacher_forced alone: tokens of the answer, their mean log-probability, the worst rank (0: greedy decoding takes them all).
  int64_t answer_tokens = 0, answer_rank = 0;
  double answer_logprob = 0;
};

// What is known of a result before anything was measured.
ItemResult result_of(const NeedleItem& item, const ProbeOptions& options);

// Called after every item; `done` of `total` are measured.
using ProbeProgress = std::function<void(const ItemResult& result, int64_t done, int64_t total)>;

// Results and their progress come in the order of the items, whatever order the engine takes.
std::vector<ItemResult> run_probe(const std::vector<NeedleItem>& items, const TextEngine& engine, const TextCodec& codec,
                                  const ProbeOptions& options, const ProbeProgress& progress = {});

// One prompt after the other.
std::vector<ItemResult> run_probe(const std::vector<NeedleItem>& items, const Generator& generate,
                                  const TextCodec& codec, const ProbeOptions& options,
                                  const ProbeProgress& progress = {});

// Takes in results in any order and reports them in that of their items.
class InOrder {
 public:
  InOrder(size_t count, const ProbeProgress& progress) : results_(count), there_(count, false), progress_(progress) {}
  void put(size_t index, ItemResult result);
  std::vector<ItemResult> take();  // all of them. Error: one never came

 private:
  std::vector<ItemResult> results_;
  std::vector<bool> there_;
  size_t reported_ = 0;
  const ProbeProgress& progress_;
};

}  // namespace qkr
