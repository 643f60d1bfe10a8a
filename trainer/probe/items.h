// The probe's own items: drawn once from (seed, task, length, index), sized to the tokenizer, then
// the same ones at every measurement of a run, so that two measurements are paired.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/draw.h"
#include "trainer/probe/haystack.h"
#include "trainer/probe/prompt.h"

namespace qkr {

struct NeedleItem {
  std::string id;  // "niah_single_2/4096/7#0f3a9c11": the digits begin the input's SHA-256
  NeedleTask task = NeedleTask::kSingle1;
  std::string name;             // of an item that no task made (prompt_file.h); "": the task's
  int64_t length = 0;           // of the cell: tokens, the new ones included
  int64_t index = 0;            // in the cell
  double depth = 0;             // percent; among lines: 100 * insert_line / num_haystack
  int64_t insert_line = 0;      // among lines
  int64_t insert_sentence = 0;  // in a text
  int64_t sentences = 0;        // in a text
  int64_t num_haystack = 0;     // lines or words
  // What is asked for ("a, b, c, and d"; vt: the assigned number) and the first answer. depth,
  // insert_line and insert_sentence are those of that answer's needle.
  std::string key, value;
  std::vector<std::string> other_values;  // further answers, in the order of the question
  std::vector<Needle> needles;            // all that were put in, in their order (vt: none)
  int64_t max_new_tokens = 0;  // RULER's limit for the task where that is below 128; 0: none of its own
  std::string prompt, answer_prefix;  // RULER's; mode chat: answer_prefix is empty
  std::string mode = "base";
  std::vector<int32_t> ids;   // the model's input: the tokenizer's prefix, prompt, answer_prefix
  int64_t prompt_tokens = 0;  // ids.size()
  // Tokens of the text before the value, as RULER counts them: where the tokenizer makes one token
  // of a space and a letter, a value that begins with a letter begins one token earlier.
  int64_t answer_token_position = 0;
  std::string haystack;                        // the text's name, or "noise" or "needles"
  std::string haystack_sha256, sentence_rule;  // empty where there is no text
};

// config.samples items for every task and length, in the configuration's order. Each prompt is as
// long as fits: prompt + prefix + max_new_tokens <= length, one more word or line would not.
// `haystack` may be null if no task needs a text. Error: one word or line does not fit; a text
// without sentences; an unknown task; a mode whose chat template the model lacks.
std::vector<NeedleItem> draw_items(const ProbeConfigSection& config, const Haystack* haystack,
                                   const TextCodec& codec);

// The items first .. first + count - 1 of one task and length.
std::vector<NeedleItem> draw_cell(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                                  int64_t first, int64_t count, const Haystack* haystack,
                                  const TextCodec& codec);

// One of them. `guess`: units to begin the search with, 0 if unknown; it changes the time, not the
// item.
NeedleItem draw_item(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                     int64_t index, const Haystack* haystack, const TextCodec& codec,
                     int64_t guess);

}  // namespace qkr
