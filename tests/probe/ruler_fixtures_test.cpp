// Prompts and scores of the official generator, byte for byte.
#include <gtest/gtest.h>

#include <map>

#include "tests/probe/ruler_data.h"
#include "trainer/probe/scoring.h"

namespace qkr::test {
namespace {

void expect_prompt(const RulerRow& golden, const Haystack* haystack) {
  const nlohmann::json& row = golden.row;
  SCOPED_TRACE(golden.file + " index " + row.at("index").dump());
  const Prompt prompt = build_prompt(fields_of(row), haystack);
  EXPECT_TRUE(
      prompt.prompt ==
      row.at("prompt").get<std::string>());  // not EXPECT_EQ: it would print 50,000 characters
  EXPECT_EQ(prompt.answer_prefix, row.at("answer_prefix"));
  EXPECT_EQ(prompt.needle_char, row.at("needle_char"));
  const std::string value = row.at("value");
  EXPECT_EQ(prompt.prompt.substr(prompt.value_byte, value.size()), value);
  EXPECT_EQ(row.at("outputs"), nlohmann::json::array({value}));
  if (row.contains("n_sentences")) {
    EXPECT_EQ(prompt.sentences, row.at("n_sentences"));
    EXPECT_EQ(prompt.insert_sentence, row.at("insert_sentence"));
  }
}

TEST(FixturesRuler, NoisePromptsAreTheOfficialOnes) {
  QKR_NEED_PATH(ruler_dir());
  const std::vector<RulerRow> rows = ruler_rows(/*noise=*/true);
  EXPECT_FALSE(rows.empty());
  for (const RulerRow& row : rows) expect_prompt(row, nullptr);
}

TEST(FixturesRuler, BookPromptsAreTheOfficialOnes) {
  QKR_NEED_PATH(ruler_dir() / "sentences.json");
  QKR_NEED_PATH(book_path());
  const SentenceData sentences = read_sentences();
  const Haystack book(read_file(book_path()), "war-and-peace.txt", sentences.starts, "punkt");
  ASSERT_EQ(book.digest(), sentences.haystack_sha256);
  const std::vector<RulerRow> rows = ruler_rows(/*noise=*/false);
  EXPECT_FALSE(rows.empty());
  for (const RulerRow& row : rows) expect_prompt(row, &book);
}

// Nothing from outside the tree: the text is that of the tiny example, in which the plain rule and the trained one agree.
TEST(FixturesRuler, MultiTaskPromptsAreTheOfficialOnes) {
  const Haystack text(read_file(source_dir() / "examples/tiny/haystack.txt"), "haystack.txt");
  std::map<std::string, int> seen;
  for (const nlohmann::json& row : read_rows(source_dir() / "tests/data/ruler/multi_tasks.jsonl")) {
    SCOPED_TRACE(row.at("task").dump() + " " + row.at("num_haystack").dump());
    ++seen[row.at("task")];
    const PromptFields fields = multi_fields_of(row);
    const Prompt prompt = build_prompt(fields, &text);
    EXPECT_EQ(prompt.prompt, row.at("prompt"));
    EXPECT_EQ(prompt.answer_prefix, row.at("answer_prefix"));
    if (row.contains("n_sentences")) {
      EXPECT_EQ(prompt.sentences, row.at("n_sentences"));
    }
    // The answer that the place is told of is one of the key asked for first.
    const auto outputs = row.at("outputs").get<std::vector<std::string>>();
    const bool there = std::any_of(outputs.begin(), outputs.end(), [&](const std::string& output) {
      return prompt.prompt.compare(prompt.value_byte, output.size(), output) == 0;
    });
    EXPECT_TRUE(there) << prompt.prompt.substr(prompt.value_byte, 40);
  }
  EXPECT_EQ(seen.size(), 6u);
  for (const auto& [task, rows] : seen) EXPECT_EQ(rows, 3) << task;
}

TEST(FixturesRuler, ScoresAreTheOfficialOnes) {
  QKR_NEED_PATH(ruler_dir() / "score.jsonl");
  std::map<int64_t, std::pair<double, bool>> shares;  // by id: share, null
  int batches = 0;
  for (const nlohmann::json& row : read_rows(ruler_dir() / "score.jsonl")) {
    SCOPED_TRACE(row.at("id").dump());
    if (row.contains("batch")) {
      std::vector<double> batch;
      int64_t nulls = 0;
      for (const int64_t id : row.at("batch")) {
        batch.push_back(shares.at(id).first);
        nulls += shares.at(id).second ? 1 : 0;
      }
      EXPECT_EQ(batch_score(batch, nulls).score, row.at("score").get<double>());
      EXPECT_EQ(batch_score(batch, nulls).nulls_text(), row.at("nulls"));
      ++batches;
      continue;
    }
    const std::string cleaned = clean_prediction(row.at("prediction").get<std::string>());
    EXPECT_EQ(cleaned, row.at("cleaned"));
    EXPECT_EQ(cleaned.empty(), row.at("null"));
    const double share = string_match(cleaned, row.at("outputs").get<std::vector<std::string>>());
    EXPECT_EQ(round_2(share * 100), row.at("score").get<double>());
    shares[row.at("id")] = {share, cleaned.empty()};
  }
  EXPECT_FALSE(shares.empty());
  EXPECT_GT(batches, 0);
}

// The figures that the rule is described by: how many boundaries it finds, and how many of them a
// trained model finds too.
TEST(FixturesRuler, PlainSentencesOfTheBook) {
  QKR_NEED_PATH(ruler_dir() / "sentences.json");
  QKR_NEED_PATH(book_path());
  const SentenceData sentences = read_sentences();
  const std::string text = read_file(book_path());
  const Haystack plain(text, "book"), punkt(text, "book", sentences.starts, "punkt");
  EXPECT_EQ(plain.words(), 562488);
  EXPECT_EQ(plain.rule(), "plain");
  EXPECT_EQ(plain.sentence_starts().size() - 1,
            30177u);  // boundaries: the text's beginning is none
  std::vector<size_t> shared;
  const auto &a = plain.sentence_starts(), &b = punkt.sentence_starts();
  std::set_intersection(a.begin() + 1, a.end(), b.begin(), b.end(), std::back_inserter(shared));
  EXPECT_EQ(std::lround(1000.0 * static_cast<double>(shared.size()) / 30177), 978);
  EXPECT_EQ(
      std::lround(1000.0 * static_cast<double>(shared.size()) / static_cast<double>(b.size())),
      921);
  EXPECT_EQ(
      std::count_if(b.begin() + 1, b.end(), [&](size_t s) { return punkt.text()[s - 1] != ' '; }),
      sentences.glued);
}

}  // namespace
}  // namespace qkr::test
