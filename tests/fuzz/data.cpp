// Rows of data files: trainer/data/row.h, over a byte-level tokenizer and its chat template.
#include <algorithm>

#include "tests/fuzz/target.h"
#include "tests/support/fixtures.h"
#include "trainer/core/text.h"
#include "trainer/data/dataset.h"
#include "trainer/data/row.h"

namespace qkr::fuzz {
namespace {

const TextModel& text_model() {
  static const TextModel model = TextModel::load((test::source_dir() / "tests" / "data" / "text").string(), "");
  return model;
}

std::vector<DataConfigSection> formats() {
  DataConfigSection messages, pair, chat, text;
  messages.format = "messages";
  pair.format = chat.format = "prompt_completion";
  chat.prompt_template = "chat";
  text.format = "text";
  return {messages, pair, chat, text};
}

void check_sample(Sample sample) {
  require(sample.ids.size() == sample.trained.size(), "a sample has a mask as long as itself");
  const int64_t vocabulary = text_model().tokenizer->vocab_size();
  require(std::all_of(sample.ids.begin(), sample.ids.end(), [&](int32_t id) { return id >= 0 && id < vocabulary; }),
          "tokens are of the vocabulary");
  require(is_utf8(inspect_sample(sample, *text_model().tokenizer, false)), "a shown sample is UTF-8");
  const int64_t labels = count_labels(sample), half = sample.size() / 2 + 1;
  const Batch batch = make_batch({sample}, {{0}});
  require(batch.labelled == labels, "a batch has the labels of its samples");
  truncate_sample(sample, half);
  require(sample.size() <= half && sample.ids.size() == sample.trained.size(), "a cut sample fits");
}

}  // namespace

Target rows_target() {
  Target target;
  target.name = "rows";
  target.seeds = {
      R"({"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?\n\n"}, )"
      R"({"role": "assistant", "content": "Because."}]})",
      R"({"messages": [{"role": "user", "content": "6 * 7"}, {"role": "assistant", "content": "", )"
      R"("tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": 1e-07}}}]}, )"
      R"({"role": "tool", "content": "42"}, {"role": "assistant", "content": "42", "reasoning_content": "easy"}], )"
      R"("tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]})",
      R"({"prompt": "How many? ", "completion": "Seven <|im_end|> \u00e9\ud83d\ude00"})",
      R"({"text": "A line.\n\nAnother <|endoftext|>"})", R"({"conversations": [{"from": "human", "value": "x"}]})"};
  target.words = {"\"role\"",       "\"assistant\"", "\"content\"", "\"<|im_start|>assistant\\n\"",
                  "\"<|im_end|>\"", "\"from\"",      "\"value\""};
  target.run = [](std::string_view input) {
    int64_t line = 0;
    while (!input.empty()) {
      const size_t end = std::min(input.find('\n'), input.size());
      ++line;
      for (const DataConfigSection& format : formats()) {
        accepts({"rows.jsonl:"},
                [&] { check_sample(read_row(format, text_model(), input.substr(0, end), "rows.jsonl", line)); });
      }
      input.remove_prefix(std::min(end + 1, input.size()));
    }
  };
  return target;
}

}  // namespace qkr::fuzz
