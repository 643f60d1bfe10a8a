// Lengths and answer positions of the golden prompts, with the tokenizer that they were made with.
#include <gtest/gtest.h>

#include "tests/probe/ruler_data.h"
#include "trainer/probe/items.h"

namespace qkr::test {
namespace {

fs::path tokenizer_path() { return assets_dir() / "qwen3-tokenizer" / "tokenizer.json"; }

TextCodec qwen3_codec() {
  TextModel text;
  text.tokenizer = std::make_shared<Tokenizer>(read_file(tokenizer_path()), "tokenizer.json");
  text.folder = "qwen3-tokenizer";
  return text_codec(text);
}

TEST(FixturesRulerTokens, LengthsAndAnswerPositionsAreTheOfficialOnes) {
  QKR_NEED_PATH(ruler_dir());
  QKR_NEED_PATH(tokenizer_path());
  const TextCodec codec = qwen3_codec();
  EXPECT_TRUE(codec.input_prefix.empty());
  int checked = 0;
  for (const bool noise : {true, false}) {
    for (const RulerRow& golden : ruler_rows(noise)) {
      const nlohmann::json& row = golden.row;
      if (row.at("remove_newline_tab")) continue;  // counted before the newlines went
      SCOPED_TRACE(golden.file + " index " + row.at("index").dump());
      const std::string prompt = row.at("prompt"), value = row.at("value");
      const auto ids = codec.encode(prompt + row.at("answer_prefix").get<std::string>());
      EXPECT_EQ(static_cast<int64_t>(ids.size()), row.at("prompt_tokens"));
      const std::string before = prompt.substr(0, prompt.find(value));
      if (row.contains("token_position_answer")) {
        EXPECT_EQ(static_cast<int64_t>(codec.encode(before).size()),
                  row.at("token_position_answer"));
      }
      ++checked;
    }
  }
  EXPECT_GT(checked, 0);
}

// Own items with a real tokenizer: full to the last word, and back to the letter.
TEST(FixturesRulerTokens, OwnItemsFillTheirLength) {
  QKR_NEED_PATH(tokenizer_path());
  QKR_NEED_PATH(book_path());
  const TextCodec codec = qwen3_codec();
  const Haystack book(read_file(book_path()), "war-and-peace.txt");
  ProbeConfigSection config;
  config.lengths = {1024, 8192};
  config.samples = 4;
  for (const NeedleItem& item : draw_items(config, &book, codec)) {
    SCOPED_TRACE(item.id);
    const int64_t room = item.length - config.max_new_tokens - item.prompt_tokens;
    EXPECT_GE(room, 0);
    EXPECT_LT(room, item.task == NeedleTask::kSingle1 ? 24 : 8);  // a line; a word
    EXPECT_EQ(codec.decode(item.ids), item.prompt + item.answer_prefix);
    // The text before the value ends in a space, which may have become one token with the value.
    const auto at = item.ids.begin() + item.answer_token_position;
    EXPECT_LE(codec.decode({at - 1, at + 4}).find(item.value.substr(0, 3)),
              codec.decode({at - 1, at}).size());
  }
}

}  // namespace
}  // namespace qkr::test
