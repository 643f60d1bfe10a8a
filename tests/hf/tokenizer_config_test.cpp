// tokenizer_config.json: the template and the special tokens in it.
#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/hf/chat_template.h"

namespace qkr::test {
namespace {

std::string error_of(const std::string& json) { return QKR_MESSAGE_OF(parse_tokenizer_config(json, "c.json")); }

TEST(TokenizerConfig, TemplateAndTokensAsStrings) {
  const TokenizerConfig config = parse_tokenizer_config(
      R"({"chat_template": "{{ messages }}", "bos_token": "<s>", "eos_token": "</s>", "pad_token": null, "model_max_length": 1e30})",
      "c.json");
  EXPECT_EQ(config.chat_template, "{{ messages }}");
  EXPECT_EQ(config.special_tokens_json, R"({"bos_token":"<s>","eos_token":"</s>"})");
  EXPECT_EQ(config.bos_token, "<s>");
  EXPECT_EQ(config.eos_token, "</s>");
}

TEST(TokenizerConfig, TokensAsObjectsAndTemplatesAsList) {
  const TokenizerConfig config = parse_tokenizer_config(
      R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}],
          "eos_token": {"content": "</é>", "lstrip": false}, "additional_special_tokens": ["<a>", {"content": "<b>"}]})",
      "c.json");
  EXPECT_EQ(config.chat_template, "D");
  EXPECT_EQ(config.special_tokens_json, R"({"eos_token":"</é>","additional_special_tokens":["<a>","<b>"]})");
  EXPECT_EQ(config.bos_token, "");
}

TEST(TokenizerConfig, NothingIsFine) {
  for (const char* json : {"{}", R"({"chat_template": null, "eos_token": null})"}) {
    const TokenizerConfig config = parse_tokenizer_config(json, "c.json");
    EXPECT_EQ(config.chat_template, "");
    EXPECT_EQ(config.special_tokens_json, "{}");
    EXPECT_EQ(config.eos_token, "");
  }
}

TEST(TokenizerConfig, ErrorsNameFileAndKey) {
  EXPECT_EQ(error_of("[]"), "c.json: must be a JSON object, got array");
  EXPECT_EQ(error_of("{").substr(0, 36), "c.json: must be JSON, got an error: ");
  EXPECT_EQ(error_of("\xFF"), "c.json: must be UTF-8");
  EXPECT_EQ(error_of(R"({"eos_token": 3})"),
            "c.json: eos_token: must be a string or an object with content, got '3'");
  EXPECT_EQ(error_of(R"({"eos_token": {"content": 3}})").substr(0, 18), "c.json: eos_token:");
  EXPECT_EQ(error_of(R"({"additional_special_tokens": "x"})"),
            "c.json: additional_special_tokens: must be a list, got string");
  EXPECT_EQ(error_of(R"({"chat_template": 1})"),
            "c.json: chat_template: must be a string or a list of named templates, got number");
  EXPECT_EQ(error_of(R"({"chat_template": [{"name": "rag", "template": "R"}]})"),
            "c.json: chat_template: one of the templates must be named default, got rag");
  EXPECT_EQ(error_of(R"({"chat_template": ["x"]})").substr(0, 61),
            "c.json: chat_template: each entry must have a name and a temp");
  EXPECT_EQ(error_of(R"({"chat_template": [{"name": "a\nb", "template": "R"}]})"),
            "c.json: chat_template: one of the templates must be named default, got 'a\\nb'");
  EXPECT_LT(error_of("{\"" + std::string(5000, 'n') + "\" 1}").size(), 400u);
  EXPECT_NE(error_of(R"({"a": )" + std::string(100000, '[')).find("deep"), std::string::npos);
}

}  // namespace
}  // namespace qkr::test
