// niah-probe as a program: a probe that was killed goes on, two files are compared, two readings agree or not.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "tests/e2e/program.h"
#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

Outcome probe(const std::vector<std::string>& more) {
  std::vector<std::string> command = {"niah-probe"};
  command.insert(command.end(), more.begin(), more.end());
  return run_program(command);
}

// Two prompts of three tasks on the tiny example.
std::vector<std::string> on_tiny(const std::string& output, const std::vector<std::string>& more = {}) {
  std::vector<std::string> command = {"--model", "examples/tiny/model", "--tasks", "niah_single_1", "niah_multiquery", "niah_multikey_2",
                                      "--lengths", "900", "--samples", "2", "--max-new-tokens", "8", "--device", "cpu", "--dtype", "float32",
                                      "--haystack", "examples/tiny/haystack.txt"};
  if (!output.empty()) command.insert(command.end(), {"--output", output});
  for (size_t i = 0; i < more.size(); i += 2) {  // a flag may stand once: the later value wins
    const auto there = std::find(command.begin(), command.end(), more[i]);
    if (there != command.end()) {
      *(there + 1) = more[i + 1];
    } else {
      command.push_back(more[i]);
      if (!more[i + 1].empty()) command.push_back(more[i + 1]);
    }
  }
  return command;
}

TEST(NiahProbe, GoesOnWhereItWasKilled) {
  TmpDir folder;
  const std::string file = (folder / "a.jsonl").string();
  const Outcome first = probe(on_tiny(file));
  ASSERT_EQ(first.code, 0) << first.err;
  const std::vector<nlohmann::json> whole = rows_of(file);
  ASSERT_EQ(whole.size(), 6u);
  EXPECT_EQ(whole[2]["outputs"].size(), 4u);
  EXPECT_EQ(whole[0]["model"].get<std::string>().size(), 16u);

  const std::string text = read_file(file);  // as killed while the third row was written
  const size_t two = text.find('\n', text.find('\n') + 1) + 1;
  std::ofstream(file, std::ios::binary | std::ios::trunc) << text.substr(0, two + 50);
  const Outcome again = probe(on_tiny(file, {"--resume", ""}));
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.out.find("4 prompts of 6"), std::string::npos) << again.out;
  EXPECT_EQ(rows_of(file), whole);

  const auto refused = [&](const std::vector<std::string>& more) {
    std::vector<std::string> all = {"--resume", ""};
    all.insert(all.end(), more.begin(), more.end());
    const Outcome outcome = probe(on_tiny(file, all));
    EXPECT_EQ(outcome.code, 2);
    return outcome.err;
  };
  EXPECT_NE(refused({"--dtype", "bfloat16"}).find("model must be this probe's"), std::string::npos);
  EXPECT_NE(refused({"--seed", "7"}).find("prompt must be this probe's"), std::string::npos);
  std::ofstream(folder / "other.txt") << read_file(source_dir() / "examples/tiny/haystack.txt") << " One more.";
  EXPECT_NE(refused({"--haystack", (folder / "other.txt").string()}).find("haystack must be this probe's"), std::string::npos);
  EXPECT_EQ(rows_of(file), whole);
}

TEST(NiahProbe, ComparesFilesAndReadings) {
  TmpDir folder;
  const std::string a = (folder / "a.jsonl").string(), b = (folder / "b.jsonl").string();
  const Outcome both = probe(on_tiny(a, {"--reading", "both"}));
  ASSERT_EQ(both.code, 0) << both.err;
  EXPECT_NE(both.out.find("niah_multiquery teacher-forced  900  n=2"), std::string::npos) << both.out;
  EXPECT_NE(both.out.find("kappa"), std::string::npos) << both.out;
  EXPECT_EQ(rows_of(a).size(), 12u);
  ASSERT_EQ(probe(on_tiny(b, {"--samples", "1"})).code, 0);
  const Outcome compared = probe({"--compare", a, b});
  ASSERT_EQ(compared.code, 0) << compared.err;
  EXPECT_NE(compared.out.find("all cells"), std::string::npos) << compared.out;
  EXPECT_NE(compared.out.find("n=3 paired"), std::string::npos) << compared.out;
  const std::string c = (folder / "c.jsonl").string();
  ASSERT_EQ(probe(on_tiny(c, {"--seed", "8"})).code, 0);
  const Outcome unlike = probe({"--compare", a, c});
  EXPECT_EQ(unlike.code, 2);
  EXPECT_NE(unlike.err.find("prompt must be that of " + a), std::string::npos) << unlike.err;
  const Outcome models = probe({"--compare", "examples/tiny/model", "examples/tiny/model", "--lengths", "600", "--tasks", "niah_single_1",
                                "--samples", "2", "--max-new-tokens", "8", "--device", "cpu"});
  EXPECT_EQ(models.code, 0) << models.err;
  EXPECT_NE(models.out.find("+0.0 points"), std::string::npos) << models.out;
}

// bench_decode --save: a model as large as asked for, its vocabulary larger than the tokenizer's.
TEST(NiahProbe, MeasuresARandomModelAndSaysWhatItTook) {
  TmpDir folder;
  nlohmann::json config = nlohmann::json::parse(read_file(source_dir() / "examples/tiny/model/config.json"));
  config["vocab_size"] = config["vocab_size"].get<int64_t>() + 1000;
  folder.write("config.json", config.dump());
  const std::string model = (folder / "model").string();
  const std::vector<std::string> save = {"bench_decode", "--model", (folder / "config.json").string(), "--save", model, "--tokenizer",
                                         "examples/tiny/model", "--device", "cpu"};
  const Outcome saved = run_program(save);
  ASSERT_EQ(saved.code, 0) << saved.err;
  EXPECT_EQ(nlohmann::json::parse(read_file(std::filesystem::path(model) / "config.json"))["vocab_size"], config["vocab_size"]);
  const Outcome again = run_program(save);
  EXPECT_EQ(again.code, 1);
  EXPECT_NE(again.err.find(model), std::string::npos) << again.err;
  EXPECT_NE(run_program({"bench_decode", "--save", model}).code, 0);  // no tokenizer

  const std::string output = (folder / "a.jsonl").string();
  const Outcome outcome = probe({"--model", model, "--tasks", "niah_single_1", "--lengths", "700", "--samples", "2", "--max-new-tokens", "5", "--device", "cpu",
                                 "--reading", "both", "--output", output});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  for (const char* line : {"made 2 prompts in \\d+\\.\\d\\d s, loaded \\d+\\.\\d [KMG]iB of weights onto cpu in \\d+\\.\\d\\d s",
                           "prefilled \\d+ of \\d+ prompt tokens \\(\\d+%, beginnings that prompts share once\\) in \\d+\\.\\d\\d s, \\d+ a second; decoded 10 tokens in "
                           "\\d+\\.\\d\\d s, up to 2 prompts at a time, \\d+\\.\\d\\d ms a step, no CUDA graph"}) {
    EXPECT_TRUE(std::regex_search(outcome.out, std::regex(line))) << line << "\n" << outcome.out;
  }
  ASSERT_EQ(rows_of(output).size(), 4u);
}

}  // namespace
}  // namespace qkr::test
