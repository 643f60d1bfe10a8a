// JSON lines → samples → packed rows → batches. All of it a pure function of the files, the tokenizer and the configuration.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/data/batch.h"
#include "trainer/data/load_watch.h"
#include "trainer/hf/chat_template.h"
#include "trainer/hf/tokenizer.h"

namespace qkr {

// The text side of a model folder. eos_id ends a completion or a text where no template does it.
struct TextModel {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;  // null: the folder has none
  std::string template_name;                          // the file it came from, for messages
  int32_t eos_id = -1;                                // -1: unknown
  std::string folder;

  // Reads tokenizer.json, tokenizer_config.json and chat_template.jinja (which wins over the config's). eos_id is the id of the
  // tokenizer config's eos_token, else eos_token_id of generation_config.json, else of config.json (of a list the first).
  // `template_override` is a Jinja file or "". Error names what is missing or wrong.
  static TextModel load(const std::string& folder, const std::string& template_override);
};

// What happened to the rows, said at start and in --dry-run.
struct DataReport {
  int64_t rows_read = 0, rows_kept = 0, over_length_dropped = 0, over_length_truncated = 0, no_label_dropped = 0;
  int64_t tokens = 0, trained_tokens = 0;  // of the rows kept; a sample's first token, which nothing predicts, is no label
  int64_t longest = 0;                     // of the rows read, in tokens, before any cut
  bool longest_goes_on = false;            // or longer: of some only the beginning was tokenised (row.h)
  std::vector<std::string> examples;  // the first few dropped or cut rows: "<file>:<line>: 9,120 tokens, dropped"
};

class Dataset {
 public:
  // Reads, renders, tokenises (in parallel) and masks every row (row.h says how). Error: a malformed line, a row without the fields, an
  // unknown role, null content, no labelled token, an over-length row where data.over_length is error, or no row left.
  // `watch` is told how far it has come.
  static Dataset load(const DataConfigSection& config, const TextModel& text, const LoadWatch& watch = {});

  const std::vector<Sample>& samples() const { return samples_; }
  const DataReport& report() const { return report_; }
  // SHA-256 of all ids and masks: two runs on the same digest see the same tokens.
  const std::string& digest() const { return digest_; }

 private:
  std::vector<Sample> samples_;
  DataReport report_;
  std::string digest_;
};

// First-fit by decreasing length into rows of at most max_length tokens (each its own row if !packing); ties by index, so the
// result is a function of the lengths alone. O(n log n).
std::vector<Row> pack_rows(const std::vector<int64_t>& lengths, int64_t max_length, bool packing);

// The order of the rows in epoch `epoch`: a permutation drawn from (seed, epoch), or 0..count-1 if !shuffle. Its own
// generator (SplitMix64, Fisher-Yates), so that it is the same on every platform.
std::vector<int64_t> epoch_order(int64_t count, int64_t seed, int64_t epoch, bool shuffle);

// The samples of `rows` end to end. A sample's last position has no target; nor has one whose next token is not trained.
Batch make_batch(const std::vector<Sample>& samples, const std::vector<Row>& rows);

// `sample` as text with the trained tokens in colour (ANSI if `color`, else between ⟦ and ⟧), special tokens visible.
std::string inspect_sample(const Sample& sample, const Tokenizer& tokenizer, bool color);

}  // namespace qkr
