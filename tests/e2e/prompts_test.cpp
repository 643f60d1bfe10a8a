// niah-probe --prompts: a model's accuracy on prompts of the user's own.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/e2e/program.h"
#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

Outcome ask(const std::string& file, const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = {"niah-probe", "--model", "examples/tiny/model", "--prompts", file, "--max-new-tokens", "4",
                                      "--device", "cpu", "--dtype", "float32"};
  command.insert(command.end(), more.begin(), more.end());
  return run_program(command);
}

TEST(OwnPrompts, AreAnsweredScoredAndResumed) {
  TmpDir folder;
  const std::string file = folder.write("sums.jsonl", "{\"prompt\": \"The special magic number\", \"answer\": \"no such answer\"}\n"
                                                      "{\"prompt\": \"The special\", \"answer\": \"nor this\", \"more\": 1}\n").string();
  const std::string output = (folder / "out.jsonl").string();
  const Outcome one = ask(file, {"--samples", "1", "--output", output});
  ASSERT_EQ(one.code, 0) << one.err;
  ASSERT_EQ(read_rows(output).size(), 1u);
  std::string said = read_rows(output)[0].at("prediction");
  said = said.substr(0, said.find_last_not_of(" \n") + 1).substr(said.find_first_not_of(" \n"));  // as RULER cleans it
  ASSERT_GT(said.size(), 1u);

  const Outcome both = ask(file, {"--output", output, "--resume"});  // the first is in the file
  ASSERT_EQ(both.code, 0) << both.err;
  const std::vector<nlohmann::json> rows = read_rows(output);
  ASSERT_EQ(rows.size(), 2u);
  for (const nlohmann::json& row : rows) {
    EXPECT_EQ(row.at("task"), "sums");
    EXPECT_EQ(row.at("hit"), false);
    EXPECT_EQ(row.at("length"), rows[0].at("prompt_tokens"));
  }
  EXPECT_NE(both.out.find("0.0%"), std::string::npos) << both.out;

  // What it says is what is looked for.
  const std::string right = folder.write("right.jsonl", nlohmann::json({{"prompt", "The special magic number"}, {"answer", said}}).dump() + "\n").string();
  const Outcome found = ask(right);
  ASSERT_EQ(found.code, 0) << found.err;
  EXPECT_NE(found.out.find("100.0%"), std::string::npos) << found.out;
}

TEST(OwnPrompts, RefuseInOneLine) {
  TmpDir folder;
  const std::string good = folder.write("good.jsonl", "{\"prompt\": \"a\", \"answer\": \"b\"}\n").string();
  const std::string bad = folder.write("bad.jsonl", "{\"prompt\": \"a\", \"answer\": \"b\"}\n{\"prompt\": \"c\"}\n").string();
  const auto error = [](const Outcome& outcome) {
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_NE(error(ask(bad)).find("bad.jsonl:2: must be an object with the strings \"prompt\" and \"answer\", got no 'answer'"), std::string::npos);
  EXPECT_NE(error(ask(good, {"--mode", "default"})).find("must be base or chat for prompts from a file"), std::string::npos);
  EXPECT_NE(error(ask(good, {"--reading", "teacher_forced"})).find("--reading must be generate beside --prompts, got teacher_forced"), std::string::npos);
  EXPECT_NE(error(ask(good, {"--tasks", "niah_single_1"})).find("--tasks excludes --prompts"), std::string::npos);
  EXPECT_NE(error(ask((folder / "none.jsonl").string())).find("none.jsonl"), std::string::npos);
}

}  // namespace
}  // namespace qkr::test
