// The probe's own items: drawn once from (seed, task, length, index), sized to the tokenizer, then
// the same ones at every measurement of a run, so that two measurements are paired.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/haystack.h"
#include "trainer/probe/prompt.h"

namespace qkr {

struct NeedleItem {
  std::string id;  // "niah_single_2/4096/7#0f3a9c11": the digits begin the input's SHA-256
  NeedleTask task = NeedleTask::kSingle1;
  int64_t length = 0;           // of the cell: tokens, the new ones included
  int64_t index = 0;            // in the cell
  double depth = 0;             // percent; single_1: 100 * insert_line / num_haystack
  int64_t insert_line = 0;      // single_1
  int64_t insert_sentence = 0;  // single_2, single_3
  int64_t sentences = 0;        // single_2, single_3
  int64_t num_haystack = 0;     // lines or words
  std::string key, value;
  std::string prompt, answer_prefix;
  std::vector<int32_t> ids;   // the model's input: the tokenizer's prefix, prompt, answer_prefix
  int64_t prompt_tokens = 0;  // ids.size()
  // Tokens of the text before the value, as RULER counts them: where the tokenizer makes one token
  // of a space and a letter, a value that begins with a letter begins one token earlier.
  int64_t answer_token_position = 0;
  std::string haystack;                        // "noise" for single_1
  std::string haystack_sha256, sentence_rule;  // empty for single_1
};

// What chance decides about an item. Keys and values have RULER's distributions. Places go through
// the 40 depths (single_1: 40 strips of the lines) in a drawn order, so that few samples still
// cover the whole length.
struct NeedleDraw {
  std::string key, value;
  double depth = 0;     // single_2, single_3: one of RULER's 40 points
  double fraction = 0;  // single_1: insert_line = int(fraction * num_haystack)
};
NeedleDraw draw_needle(int64_t seed, NeedleTask task, int64_t length, int64_t index);

// RULER's depths: 0 3 5 8 10 13 ... 97 100.
const std::vector<int>& depth_points();

// config.samples items for every task and length, in the configuration's order. Each prompt is as
// long as fits: prompt + prefix + max_new_tokens <= length, one more word or line would not.
// `haystack` may be null if single_1 is the only task. Error: one word or line does not fit; a text
// without sentences; an unknown task.
std::vector<NeedleItem> draw_items(const ProbeConfigSection& config, const Haystack* haystack,
                                   const TextCodec& codec);

// One of them. `guess`: units to begin the search with, 0 if unknown; it changes the time, not the
// item.
NeedleItem draw_item(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                     int64_t index, const Haystack* haystack, const TextCodec& codec,
                     int64_t guess);

}  // namespace qkr
