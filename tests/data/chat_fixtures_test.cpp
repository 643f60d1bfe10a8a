// Ids and masks of whole conversations against transformers' own, with the real Qwen3 tokenizer (fixtures/chat/README.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "tests/data/support.h"
#include "trainer/core/error.h"
#include "trainer/io/json_lines.h"

namespace qkr {
namespace {

struct Case {
  std::string line;
  nlohmann::json row;
};

std::vector<Case> read_cases(const std::filesystem::path& path) {
  std::vector<Case> cases;
  JsonLinesReader reader(path);
  while (reader.next()) cases.push_back({std::string(reader.text()), reader.row()});
  return cases;
}

const TextModel& qwen3() {
  static const TextModel model = TextModel::load((test::assets_dir() / "qwen3-tokenizer").string(), "");
  return model;
}

// The trained tokens as half-open runs, split where one message ends and the next begins.
std::vector<uint8_t> mask_of(const nlohmann::json& row) {
  std::vector<uint8_t> mask(row["ids"].size(), 0);
  for (const auto& run : row["assistant_token_runs"]) {
    for (size_t t = run[0]; t < run[1].get<size_t>(); ++t) mask[t] = 1;
  }
  return mask;
}

bool has_unknown_role(const nlohmann::json& row) {
  static const std::set<std::string> kKnown = {"system", "user", "assistant", "tool"};
  const auto& messages = row["messages"];
  return std::any_of(messages.begin(), messages.end(), [](const auto& m) { return kKnown.count(m["role"]) == 0; });
}

TEST(FixturesData, IdsAndMasksOfEveryConversation) {
  const auto path = test::fixtures_dir() / "chat" / "cases.jsonl";
  QKR_NEED_PATH(path);
  QKR_NEED_PATH(test::assets_dir() / "qwen3-tokenizer");
  int checked = 0, refused = 0;
  for (const Case& one : read_cases(path)) {
    const std::string id = one.row["id"];
    test::Rows rows(one.line + "\n");
    rows.config.max_length = 1 << 20;
    rows.config.no_label = "drop";
    if (one.row.contains("error")) {
      const std::string refusal = QKR_MESSAGE_OF(Dataset::load(rows.config, qwen3()));
      EXPECT_EQ(refusal.rfind(rows.file() + ":1: messages", 0), 0u) << id << ": " << refusal;
      ++refused;
      continue;
    }
    const std::vector<uint8_t> mask = mask_of(one.row);
    if (has_unknown_role(one.row)) {  // the template drops it in silence; a trainer refuses it
      EXPECT_NE(QKR_MESSAGE_OF(Dataset::load(rows.config, qwen3())).find(".role: must be one of system, "), std::string::npos)
          << id;
      ++refused;
      continue;
    }
    if (std::count(mask.begin(), mask.end(), 1) == 0) {
      EXPECT_NE(QKR_MESSAGE_OF(Dataset::load(rows.config, qwen3())).find("no row is left"), std::string::npos) << id;
      continue;
    }
    Dataset data;
    ASSERT_NO_THROW(data = Dataset::load(rows.config, qwen3())) << id;
    const Sample& sample = data.samples().at(0);
    EXPECT_EQ(sample.ids, one.row["ids"].get<std::vector<int32_t>>()) << id;
    EXPECT_EQ(sample.trained, mask) << id;
    ++checked;
  }
  EXPECT_GE(checked, 1);
  EXPECT_GE(refused, 1);
  RecordProperty("conversations", checked);
}

// 7,473 rows; the bound is loose, the time is printed.
TEST(FixturesData, Gsm8k) {
  const auto path = test::assets_dir() / "gsm8k" / "train.jsonl";
  QKR_NEED_PATH(path);
  QKR_NEED_PATH(test::assets_dir() / "qwen3-tokenizer");
  qwen3();
  DataConfigSection config;
  config.train = {path.string()};
  config.format = "prompt_completion";
  config.prompt_field = "question";
  config.completion_field = "answer";
  config.prompt_template = "chat";
  config.max_length = 2048;
  const auto begin = std::chrono::steady_clock::now();
  const Dataset data = Dataset::load(config, qwen3());
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(data.report().rows_kept, 7473);
  std::vector<int64_t> lengths;
  for (const Sample& sample : data.samples()) lengths.push_back(sample.size());
  const std::vector<Row> rows = pack_rows(lengths, config.max_length, true);
  const double filled = static_cast<double>(data.report().tokens) / static_cast<double>(rows.size() * 2048);
  EXPECT_GT(filled, 0.99);
  std::printf("7,473 rows in %.2f s, %zu packed rows, %.2f%% filled\n", seconds.count(), rows.size(), 100 * filled);
}

}  // namespace
}  // namespace qkr
