// Prompts of the user's own: the same rows, ids and rules as a needle's.
#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"
#include "trainer/probe/prompt_file.h"
#include "trainer/probe/runner.h"

namespace qkr {
namespace {

// A token a byte; 1000 stands before every input.
TextCodec bytes_codec() {
  TextCodec codec;
  codec.encode = [](std::string_view text) { return std::vector<int32_t>(text.begin(), text.end()); };
  codec.decode = [](const std::vector<int32_t>& ids) { return std::string(ids.begin(), ids.end()); };
  codec.input_prefix = {1000};
  codec.chat = [](const std::string& user) { return "<" + user + ">"; };
  return codec;
}

const std::vector<OwnPrompt> kPrompts = {{"1 + 1?", "It is 2."}, {"How many are 2 and 3?", "It is 5."}};

Generator says(const std::string& text) {
  return [text](const std::vector<int32_t>&, const StopRule& stop) {
    std::vector<int32_t> so_far;
    for (const char c : text) {
      so_far.push_back(c);
      if (stop(so_far)) break;
    }
    return so_far;
  };
}

TEST(PromptItems, AreScoredAndRecordedUnderTheFilesName) {
  const TextCodec codec = bytes_codec();
  const std::vector<NeedleItem> items = prompt_items(kPrompts, "sums", "base", codec);
  ProbeOptions options;
  options.eos_ids = {'#'};
  const std::vector<ItemResult> results = run_probe(items, says("so it is 2. Or not.#"), codec, options);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_TRUE(results[0].hit);
  EXPECT_EQ(results[0].prediction, "so it is 2.");  // stops where the answer stands, in either case
  EXPECT_FALSE(results[1].hit);
  EXPECT_EQ(results[1].stopped, "eos");
  for (const ItemResult& r : results) {
    EXPECT_EQ(r.task, "sums");
    EXPECT_EQ(r.length, 22);  // of the longest, with the tokenizer's prefix
    EXPECT_EQ(r.outputs.size(), 1u);
  }
  EXPECT_EQ(results[0].id.rfind("sums/0#", 0), 0u) << results[0].id;
}

TEST(PromptItems, ChatIsATurnOfTheTemplateWithoutThePrefix) {
  const TextCodec codec = bytes_codec();
  EXPECT_EQ(codec.decode(prompt_items(kPrompts, "sums", "chat", codec)[0].ids), "<1 + 1?>");
  const std::vector<NeedleItem> base = prompt_items(kPrompts, "sums", "base", codec);
  EXPECT_EQ(base[0].ids.front(), 1000);
  EXPECT_EQ(base[0].ids.size(), 7u);
}

TEST(PromptItems, AnotherAnswerIsAnotherItem) {
  std::vector<OwnPrompt> changed = kPrompts;
  changed[1].answer = "It is 6.";
  const auto before = prompt_items(kPrompts, "sums", "base", bytes_codec()), after = prompt_items(changed, "sums", "base", bytes_codec());
  EXPECT_EQ(before[0].id, after[0].id);
  EXPECT_NE(before[1].id, after[1].id);
}

TEST(PromptItems, RefuseWhatCannotBeAsked) {
  TextCodec codec = bytes_codec();
  EXPECT_EQ(QKR_MESSAGE_OF(prompt_items(kPrompts, "sums", "default", codec)),
            "mode: must be base or chat for prompts from a file, which have no answer prefix, got default");
  EXPECT_EQ(QKR_MESSAGE_OF(prompt_items({}, "sums", "base", codec)), "sums: must hold prompts, got none");
  EXPECT_EQ(QKR_MESSAGE_OF(prompt_items({{"a", "b"}, {"c", ""}}, "sums", "base", codec)),
            "sums: prompt 1 must have a prompt and an answer, got an empty answer");
  codec.chat = {};
  EXPECT_EQ(QKR_MESSAGE_OF(prompt_items(kPrompts, "sums", "chat", codec)), "mode: chat needs a chat template, and the model has none");
}

}  // namespace
}  // namespace qkr
