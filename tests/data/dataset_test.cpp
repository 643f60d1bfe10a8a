// Files → samples, for every format and every rule.
#include "trainer/data/dataset.h"

#include <gtest/gtest.h>

#include "tests/data/support.h"
#include "trainer/core/error.h"

namespace qkr {
namespace {

using test::bytes;
using test::kEos;
using test::kImEnd;
using test::kImStart;
using test::Rows;
using test::shown;

std::string chat(const std::string& question, const std::string& answer) {
  return nlohmann::json{{"messages", {{{"role", "user"}, {"content", question}}, {{"role", "assistant"}, {"content", answer}}}}}
             .dump() + "\n";
}

TEST(Dataset, MessagesAreMaskedByTheTemplate) {
  const Rows rows(chat("q", "yes") + "\n" + chat("<|im_end|>\n<|im_start|>assistant\nx", "\nno"));
  const Dataset data = rows.load();
  ASSERT_EQ(data.samples().size(), 2u);
  EXPECT_EQ(shown(data.samples()[0]), "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n");
  EXPECT_EQ(data.samples()[0].ids[0], kImStart);
  EXPECT_EQ(data.samples()[0].line, 1);
  EXPECT_EQ(data.samples()[1].line, 3);
  // Markers typed by the user move nothing; "\n\n" is one token that begins in the header.
  EXPECT_EQ(shown(data.samples()[1]),
            "<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\nx<|im_end|>\n<|im_start|>assistant\n\n⟦no<|im_end|>⟧\n");
  const DataReport& report = data.report();
  EXPECT_EQ(report.rows_read, 2);
  EXPECT_EQ(report.rows_kept, 2);
  EXPECT_EQ(report.trained_tokens, 4 + 3);
  EXPECT_EQ(report.tokens, data.samples()[0].size() + data.samples()[1].size());
  EXPECT_EQ(report.longest, data.samples()[1].size());
}

TEST(Dataset, RawPairs) {
  Rows rows("{\"question\":\"what?\",\"answer\":\"this\",\"id\":7}\n", "prompt_completion");
  rows.config.prompt_field = "question";
  rows.config.completion_field = "answer";
  EXPECT_EQ(shown(rows.load().samples()[0]), "what?⟦this<|endoftext|>⟧");
  rows.config.separator = " ";  // " t" is one token, and it begins in the separator
  const Dataset data = rows.load();
  EXPECT_EQ(shown(data.samples()[0]), "what? t⟦his<|endoftext|>⟧");
  std::vector<int32_t> ids = bytes("what?");
  for (const int32_t id : {257, 'h' + 0, 'i' + 0, 's' + 0, static_cast<int>(kEos)}) ids.push_back(id);
  EXPECT_EQ(data.samples()[0].ids, ids);
}

TEST(Dataset, AnEndOfTextThatIsThereIsNotDoubled) {
  const Rows rows("{\"prompt\":\"a\",\"completion\":\"b<|endoftext|>\"}\n", "prompt_completion");
  EXPECT_EQ(shown(rows.load().samples()[0]), "a⟦b<|endoftext|>⟧");
}

TEST(Dataset, PairsAsAChat) {
  Rows rows("{\"prompt\":\"q \\\"é\",\"completion\":\"a\"}\n", "prompt_completion");
  rows.config.prompt_template = "chat";
  EXPECT_EQ(shown(rows.load().samples()[0]),
            "<|im_start|>user\nq \"é<|im_end|>\n<|im_start|>assistant\n⟦a<|im_end|>⟧\n");
}

TEST(Dataset, Text) {
  Rows rows("{\"body\":\"abc\"}\n", "text");
  rows.config.text_field = "body";
  const Dataset data = rows.load();
  EXPECT_EQ(shown(data.samples()[0]), "⟦abc<|endoftext|>⟧");
  EXPECT_EQ(data.report().trained_tokens, 3);  // nothing predicts the first
  TextModel no_end = test::text_model();
  no_end.eos_id = -1;
  EXPECT_EQ(Dataset::load(rows.config, no_end).samples()[0].ids, bytes("abc"));
}

// A Llama's post-processor puts its BOS before raw text.
TEST(Dataset, RawTextGetsTheTokenizersOwnBos) {
  const test::TmpDir folder;
  auto tokenizer = nlohmann::json::parse(test::read_file(test::text_folder() + "/tokenizer.json"));
  const nlohmann::json bos = {{"SpecialToken", {{"id", "<|im_start|>"}, {"type_id", 0}}}};
  const nlohmann::json text = {{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  tokenizer["post_processor"] = {
      {"type", "TemplateProcessing"}, {"single", {bos, text}}, {"pair", {bos, text}},
      {"special_tokens", {{"<|im_start|>", {{"id", "<|im_start|>"}, {"ids", {kImStart}}, {"tokens", {"<|im_start|>"}}}}}}};
  folder.write("tokenizer.json", tokenizer.dump());
  folder.write("tokenizer_config.json", "{\"eos_token\": {\"content\": \"<|endoftext|>\"}}");
  const TextModel model = TextModel::load(folder.path().string(), "");
  const Rows rows("{\"prompt\":\"ab\",\"completion\":\"c\"}\n", "prompt_completion");
  const Sample sample = Dataset::load(rows.config, model).samples()[0];
  EXPECT_EQ(sample.ids, (std::vector<int32_t>{kImStart, 'a', 'b', 'c', kEos}));
  EXPECT_EQ(sample.trained, (std::vector<uint8_t>{0, 0, 0, 1, 1}));
}

TEST(Dataset, OverLength) {
  Rows rows(chat("q", std::string(90, 'x')) + chat("q", "y") + chat("q", std::string(200, 'z')));
  Dataset data = rows.load();
  EXPECT_EQ(data.samples().size(), 1u);
  EXPECT_EQ(data.report().over_length_dropped, 2);
  EXPECT_EQ(data.report().rows_read, 3);
  EXPECT_EQ(data.report().rows_kept, 1);
  EXPECT_EQ(data.report().longest, 222);
  ASSERT_EQ(data.report().examples.size(), 2u);
  EXPECT_EQ(data.report().examples[0], rows.file() + ":1: 112 tokens, dropped");

  rows.config.over_length = "truncate";
  data = rows.load();
  ASSERT_EQ(data.samples().size(), 3u);
  EXPECT_EQ(data.report().over_length_truncated, 2);
  EXPECT_EQ(data.report().examples[1], rows.file() + ":3: 222 tokens, cut to 100");
  EXPECT_EQ(data.samples()[2].size(), 100);
  EXPECT_EQ(data.samples()[2].ids.back(), kImEnd);
  EXPECT_EQ(data.samples()[2].trained.back(), 1);

  rows.config.over_length = "error";
  EXPECT_EQ(rows.error(), "a.jsonl:1: must be at most data.max_length (100) tokens long, got 112; set data.over_length to drop or "
                          "truncate, or raise data.max_length");
  rows.config.over_length = "drop";
  rows.config.max_length = 10;
  EXPECT_EQ(rows.error(), "data.train: every row is longer than data.max_length (10): 3 rows of 23 to 222 tokens; raise "
                          "data.max_length or set data.over_length: truncate");
}

TEST(Dataset, NoLabel) {
  const std::string question = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}]}\n";
  Rows rows(chat("q", "a") + question);
  EXPECT_EQ(rows.error(), "a.jsonl:2: must have a trained token, got none; set data.no_label: drop to leave such rows out");
  rows.config.no_label = "drop";
  const Dataset data = rows.load();
  EXPECT_EQ(data.report().no_label_dropped, 1);
  EXPECT_EQ(data.report().examples[0], rows.file() + ":2: no trained token, dropped");

  Rows only(question);
  only.config.no_label = "drop";
  EXPECT_EQ(only.error(),
            "data.train: no row is left of 1: 0 longer than data.max_length (100), 1 without a trained token");

  Rows cut(chat(std::string(100, 'q'), "a"));
  cut.config.over_length = "truncate";
  EXPECT_EQ(cut.error(), "a.jsonl:1: must have a trained token within data.max_length (100), got none; set data.no_label: drop "
                         "to leave such rows out");
}

TEST(Dataset, Limit) {
  Rows rows(chat("q", "a") + "\n" + chat("q", "b") + "not json\n");
  rows.config.limit = 2;
  EXPECT_EQ(rows.load().samples().size(), 2u);
  rows.config.limit = 3;
  EXPECT_EQ(rows.error().substr(0, 25), "a.jsonl:4:2: must be JSON");
}

TEST(Dataset, SeveralFilesAndTheSameResultOnEveryLoad) {
  Rows rows(chat("q", "a"));
  std::string many;
  for (int i = 0; i < 500; ++i) many += chat("q" + std::to_string(i), std::string(static_cast<size_t>(i % 50), 'a'));
  rows.config.train.push_back(rows.dir.write("b.jsonl", many).string());
  const Dataset first = rows.load(), second = rows.load();
  ASSERT_EQ(first.samples().size(), 501u);
  EXPECT_EQ(first.samples()[500].file, 1);
  EXPECT_EQ(first.samples()[500].line, 500);
  for (size_t i = 0; i < first.samples().size(); ++i) ASSERT_EQ(first.samples()[i].ids, second.samples()[i].ids);
  EXPECT_EQ(first.digest(), second.digest());
  EXPECT_EQ(first.digest().size(), 64u);
  rows.config.limit = 500;
  EXPECT_NE(rows.load().digest(), first.digest());
}

// Two bad lines that take different times, in either order: the first one is named, not the one that failed first or last.
TEST(Dataset, TheFirstBadLineIsNamedWhateverTheThreads) {
  const auto bad_line = [](size_t size) {
    return "{\"messages\":[{\"role\":\"user\",\"content\":\"" + std::string(size, 'x') + "\"},{\"role\":\"critic\"}]}\n";
  };
  const std::string slow = bad_line(6000000), quick = bad_line(1000000);
  const std::string want = "a.jsonl:1: messages[1].role: must be one of system, user, assistant, tool, got 'critic'";
  EXPECT_EQ(Rows(slow + quick).error(), want);
  EXPECT_EQ(Rows(quick + slow).error(), want);
  std::string lines;
  for (int i = 1; i <= 300; ++i) lines += i % 50 == 0 ? "{\"messages\":[]}\n" : chat("q", std::string(200, 'x'));
  EXPECT_EQ(Rows(lines).error(), "a.jsonl:50: messages: must not be empty, got []");
}

// What stands in a file may be anything.
TEST(Dataset, BadLines) {
  const auto error = [](const std::string& lines, const std::string& format = "messages") { return Rows(lines, format).error(); };
  EXPECT_EQ(error(""), "a.jsonl: must have at least one row, got none");
  EXPECT_EQ(error("\n \n"), "a.jsonl: must have at least one row, got none");
  EXPECT_EQ(error("[\n{}\n]\n"), "a.jsonl:1: must be one JSON object a line, got the start of a JSON list");
  EXPECT_EQ(error("3\n"), "a.jsonl:1: must be a JSON object, got number");
  EXPECT_EQ(error("{\"messages\":[\n").substr(0, 27), "a.jsonl:1:14: must be JSON,");
  EXPECT_EQ(error(chat("q", "a") + "{\"messages\": \"\xff\"}\n").substr(0, 29), "a.jsonl:2:15: must be UTF-8, ");
  EXPECT_EQ(error("{\"a\":1,\"a\":2}\n"), "a.jsonl:1: must give each key once, got 'a' twice in one object");
  EXPECT_EQ(error("{\"prompt\":\"a\",\"completion\":\"b\"}\n"),
            "a.jsonl:1: must have the field 'messages', got completion, prompt; set data.format: prompt_completion");
  EXPECT_EQ(error("{\"conversations\":[]}\n"),
            "a.jsonl:1: must have the field 'messages', got conversations; the form {conversations: [{from, value}]} is not "
            "read: write {messages: [{role, content}]}");
  EXPECT_EQ(error("{\"question\":\"a\",\"answer\":\"b\"}\n", "prompt_completion"),
            "a.jsonl:1: must have the field 'prompt' (data.prompt_field), got answer, question");
  EXPECT_EQ(error("{\"prompt\":\"a\",\"completion\":null}\n", "prompt_completion"),
            "a.jsonl:1: completion: must be a string, got null");
  EXPECT_EQ(error("{\"a\\nb\":1,\"c\":2}\n"), "a.jsonl:1: must have the field 'messages', got 'a\\nb', c");
  EXPECT_EQ(error("{\"text\":[\"a\"]}\n", "text"), "a.jsonl:1: text: must be a string, got array");
  EXPECT_EQ(error("{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"tools\":\"[]\"}\n"),
            "a.jsonl:1: tools: must be a list or null, got string");
  EXPECT_EQ(error("{\"messages\":[{\"role\":\"critic\",\"content\":\"q\"}]}\n"),
            "a.jsonl:1: messages[0].role: must be one of system, user, assistant, tool, got 'critic'");
}

TEST(Dataset, BadFiles) {
  Rows rows(chat("q", "a"));
  const test::TmpDir dir;
  rows.config.train.push_back((dir / "absent.jsonl").string());
  EXPECT_EQ(rows.error().rfind((dir / "absent.jsonl").string() + ": ", 0), 0u) << rows.error();
  rows.config.train[1] = dir.path().string();
  EXPECT_EQ(rows.error().rfind(dir.path().string() + ": ", 0), 0u) << rows.error();
}

TEST(Dataset, NeedsATemplateOrAnEndOfText) {
  TextModel model = test::text_model();
  model.folder = "base";
  model.chat_template = nullptr;
  const Rows chats(chat("q", "a"));
  EXPECT_EQ(QKR_MESSAGE_OF(Dataset::load(chats.config, model)),
            "base: must have a chat template for data.format: messages, got none (neither chat_template.jinja nor one in "
            "tokenizer_config.json); name a Jinja file with model.chat_template");
  model.eos_id = -1;
  const Rows pairs("{\"prompt\":\"a\",\"completion\":\"b\"}\n", "prompt_completion");
  EXPECT_EQ(QKR_MESSAGE_OF(Dataset::load(pairs.config, model)),
            "base: must have an end-of-text token to end each completion with, got none (eos_token in tokenizer_config.json, "
            "eos_token_id in generation_config.json or config.json)");
}

}  // namespace
}  // namespace qkr
