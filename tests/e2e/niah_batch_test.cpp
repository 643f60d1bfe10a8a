// niah-probe in batches, with beginnings that prompts share prefilled once: the same rows in the same order as one prompt at a time.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/e2e/program.h"
#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

Outcome probe(const std::vector<std::string>& more) {
  std::vector<std::string> command = {"niah-probe", "--model", "examples/tiny/model", "--tasks", "niah_single_1", "niah_single_2",
                                      "--lengths", "900", "--samples", "6", "--max-new-tokens", "8", "--device", "cpu", "--dtype", "float32",
                                      "--haystack", "examples/tiny/haystack.txt"};
  command.insert(command.end(), more.begin(), more.end());
  return run_program(command);
}

// The two numbers of "prefilled A of B prompt tokens".
std::pair<int64_t, int64_t> prefilled(const std::string& out) {
  std::smatch found;
  if (!std::regex_search(out, found, std::regex("prefilled (\\d+) of (\\d+) prompt tokens"))) return {0, 0};
  return {std::stoll(found[1]), std::stoll(found[2])};
}

TEST(NiahBatch, GivesTheRowsOfOneAtATime) {
  TmpDir folder;
  const std::string one = (folder / "one.jsonl").string(), many = (folder / "many.jsonl").string();
  const Outcome alone = probe({"--batch", "1", "--prefill-chunk", "64", "--output", one});
  ASSERT_EQ(alone.code, 0) << alone.err;
  EXPECT_NE(alone.out.find("one prompt at a time"), std::string::npos) << alone.out;
  const Outcome together = probe({"--batch", "4", "--prefill-chunk", "64", "--output", many});
  ASSERT_EQ(together.code, 0) << together.err;
  EXPECT_NE(together.out.find("up to 4 prompts at a time"), std::string::npos) << together.out;
  EXPECT_NE(together.out.find("no CUDA graph: only CUDA has them"), std::string::npos) << together.out;
  const auto [left, all] = prefilled(together.out);
  EXPECT_GT(left, 0);
  EXPECT_LT(left, all * 9 / 10) << together.out;
  const std::vector<nlohmann::json> rows = rows_of(many);
  ASSERT_EQ(rows.size(), 12u);
  EXPECT_EQ(rows, rows_of(one));
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i]["index"], i % 6) << i;
}

TEST(NiahBatch, RefusesABatchOfNone) {
  const Outcome none = probe({"--batch", "0"});
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.err.find("--batch"), std::string::npos) << none.err;
}

}  // namespace
}  // namespace qkr::test
