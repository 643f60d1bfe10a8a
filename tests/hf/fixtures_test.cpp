// The golden conversations and texts of the Qwen3 tokenizer: ids, text, spans, masks, decoding, refusals.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/hf/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/hf/chat_template.h"
#include "trainer/hf/tokenizer.h"

namespace qkr::test {
namespace {

fs::path qwen_dir() { return assets_dir() / "qwen3-tokenizer"; }
fs::path chat_dir() { return fixtures_dir() / "chat"; }

// Loading takes a second, so it is done once.
const Tokenizer& qwen_tokenizer() {
  static const Tokenizer tokenizer(read_file(qwen_dir() / "tokenizer.json"), "tokenizer.json");
  return tokenizer;
}

const ChatTemplate& qwen_template() {
  static const ChatTemplate chat_template = [] {
    const TokenizerConfig config = parse_tokenizer_config(read_file(qwen_dir() / "tokenizer_config.json"), "config");
    return ChatTemplate(config.chat_template, config.special_tokens_json, "qwen3");
  }();
  return chat_template;
}

bool is_error(const Row& row) { return row.json.contains("error"); }

bool writes_every_role(const Row& row) {
  for (const auto& message : row.json["messages"]) {
    if (message["role"] != "system" && message["role"] != "user" && message["role"] != "assistant" &&
        message["role"] != "tool")
      return false;
  }
  return true;
}

// Which tokens are trained on: those whose first byte lies in a span.
std::vector<std::vector<int64_t>> runs_of(const Encoding& encoding, const std::vector<Span>& spans) {
  std::vector<std::vector<int64_t>> runs;
  for (const Span& span : spans) {
    const auto first = std::lower_bound(encoding.starts.begin(), encoding.starts.end(), span.begin);
    const auto last = std::lower_bound(encoding.starts.begin(), encoding.starts.end(), span.end);
    runs.push_back({first - encoding.starts.begin(), last - encoding.starts.begin()});
  }
  return runs;
}

void check_case(const Row& row) {
  RenderOptions options;
  options.allow_dropped = !writes_every_role(row);
  const Rendered rendered = qwen_template().render(row.raw("messages"), row.raw("tools"), options);
  ASSERT_EQ(rendered.text, row.json["text"].get<std::string>());
  std::vector<std::vector<int64_t>> spans;
  for (const Span& span : rendered.assistant_spans) spans.push_back({span.begin, span.end});
  EXPECT_EQ(nlohmann::json(spans), row.json["assistant_spans_utf8"]);
  const Encoding encoding = qwen_tokenizer().encode(rendered.text);
  EXPECT_EQ(encoding.ids, row.json["ids"].get<std::vector<int32_t>>());
  EXPECT_TRUE(std::is_sorted(encoding.starts.begin(), encoding.starts.end()));
  EXPECT_EQ(nlohmann::json(runs_of(encoding, rendered.assistant_spans)), row.json["assistant_token_runs"]);
}

void check_generation(const Row& row) {
  for (const bool thinking : {true, false}) {
    const auto& want = row.json["generation"][thinking ? "thinking" : "no_thinking"];
    RenderOptions options;
    options.allow_dropped = !writes_every_role(row);
    options.add_generation_prompt = true;
    if (!thinking) options.extra_json = R"({"enable_thinking": false})";
    const Rendered rendered = qwen_template().render(row.raw("messages"), row.raw("tools"), options);
    EXPECT_EQ(rendered.text, row.json["text"].get<std::string>() + want["suffix"].get<std::string>());
    std::vector<std::vector<int64_t>> spans;  // the prompt after them moves none
    for (const Span& span : rendered.assistant_spans) spans.push_back({span.begin, span.end});
    EXPECT_EQ(nlohmann::json(spans), row.json["assistant_spans_utf8"]);
    std::vector<int32_t> ids = row.json["ids"];
    for (const int32_t id : want["suffix_ids"]) ids.push_back(id);
    EXPECT_EQ(qwen_tokenizer().ids(rendered.text), ids);
  }
}

TEST(FixturesChat, ConversationsRenderEncodeAndMask) {
  QKR_NEED_PATH(qwen_dir());
  QKR_NEED_PATH(chat_dir() / "cases.jsonl");
  int count = 0;
  for (const Row& row : read_rows(chat_dir() / "cases.jsonl")) {
    if (is_error(row)) continue;
    SCOPED_TRACE(row.json["id"].get<std::string>());
    check_case(row);
    check_generation(row);
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(FixturesChat, WhatMustBeRefusedIsRefusedInOneLine) {
  QKR_NEED_PATH(qwen_dir());
  QKR_NEED_PATH(chat_dir() / "cases.jsonl");
  int count = 0;
  for (const Row& row : read_rows(chat_dir() / "cases.jsonl")) {
    if (!is_error(row)) continue;
    const std::string id = row.json["id"];
    const std::string message = QKR_MESSAGE_OF(qwen_template().render(row.raw("messages"), row.raw("tools")));
    EXPECT_NE(message, "") << id;
    EXPECT_EQ(message.find('\n'), std::string::npos) << id;
    RecordProperty(id, message);
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(FixturesChat, RolesThatVanishAreRefusedUnlessAskedFor) {
  QKR_NEED_PATH(qwen_dir());
  QKR_NEED_PATH(chat_dir() / "cases.jsonl");
  for (const Row& row : read_rows(chat_dir() / "cases.jsonl")) {
    if (is_error(row)) continue;
    const std::string message = QKR_MESSAGE_OF(qwen_template().render(row.raw("messages"), row.raw("tools")));
    if (writes_every_role(row)) {
      EXPECT_EQ(message, "") << row.json["id"];
    } else {
      EXPECT_NE(message.find("message 0: role must be one that qwen3 writes"), std::string::npos) << message;
    }
  }
}

TEST(FixturesChat, TextsEncodeAndDecode) {
  QKR_NEED_PATH(qwen_dir());
  QKR_NEED_PATH(chat_dir() / "encode.jsonl");
  int count = 0;
  for (const Row& row : read_rows(chat_dir() / "encode.jsonl")) {
    SCOPED_TRACE(row.json["id"].dump());
    const std::vector<int32_t> ids = row.json["ids"];
    EXPECT_EQ(qwen_tokenizer().ids(row.json["text"].get<std::string>()), ids);
    EXPECT_EQ(qwen_tokenizer().decode(ids), row.json["decoded"].get<std::string>());
    const auto& visible = row.json[row.json.contains("decoded_skip_special") ? "decoded_skip_special" : "decoded"];
    EXPECT_EQ(qwen_tokenizer().decode(ids, true), visible.get<std::string>());
    ++count;
  }
  EXPECT_GT(count, 0);
}

TEST(FixturesChat, IdsDecode) {
  QKR_NEED_PATH(qwen_dir());
  QKR_NEED_PATH(chat_dir() / "decode.jsonl");
  int count = 0;
  for (const Row& row : read_rows(chat_dir() / "decode.jsonl")) {
    SCOPED_TRACE(row.json["id"].dump());
    const std::vector<int32_t> ids = row.json["ids"];
    EXPECT_EQ(qwen_tokenizer().decode(ids), row.json["decoded"].get<std::string>());
    const auto& visible = row.json[row.json.contains("decoded_skip_special") ? "decoded_skip_special" : "decoded"];
    EXPECT_EQ(qwen_tokenizer().decode(ids, true), visible.get<std::string>());
    ++count;
  }
  EXPECT_GT(count, 0);
}

}  // namespace
}  // namespace qkr::test
