// One line of a data file → one Sample.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "trainer/config/run_config.h"
#include "trainer/data/batch.h"
#include "trainer/data/dataset.h"

namespace qkr {

// Refuses what a template would pass over in silence or fill with "None": no list, an unknown role, content that is no string.
// `place` is "<file>:<line>".
void check_messages(const nlohmann::json& messages, const std::string& place);

// Error if `text` lacks what data.format needs: a chat template, or an end-of-text token.
void check_text_model(const DataConfigSection& config, const TextModel& text);

// The row on line `line` of `file`, untruncated. Any format:
//   messages           rendered by the template; a token is trained if its first byte lies in an assistant message's span
//   prompt_completion  with prompt_template chat: as messages; else prompt, separator and completion as one text, of which a
//                      token is trained if its first byte lies in the completion, and then the end-of-text token, trained
//   text               every token is trained, the end-of-text token (where one is known) after it too
// A rendered conversation is tokenised as it is; raw text by the tokenizer's post-processor too, which is where a Llama
// gets its BOS. Safe to call from several threads.
//
// A text of more than kLargeText bytes is first tokenised up to there, where `beginning` is given and data.over_length is not truncate. If
// that makes more than twice data.max_length tokens, no rest can bring the row within it: the sample is that of the beginning, which
// counts more than max_length too, and *beginning is true. (100 MB would take a minute and gigabytes to be dropped.)
constexpr size_t kLargeText = size_t{1} << 20;
Sample read_row(const DataConfigSection& config, const TextModel& text, std::string_view json, const std::string& file, int64_t line,
                bool* beginning = nullptr);

// How many tokens of a sample are labels: trained, and not the first, which nothing predicts.
int64_t count_labels(const Sample& sample);

// Cuts a longer sample to at most `max_length` tokens. Where the cut goes through a trained turn, that turn ends with the
// sample's own end-of-turn token, so that no turn teaches to go on for ever; where it goes through anything else, the sample
// ends with its last whole trained turn. A turn of which nothing but its end would remain is left out.
void truncate_sample(Sample& sample, int64_t max_length);

}  // namespace qkr
