// What the programs say about themselves, and the flags that train nothing.
#include <gtest/gtest.h>

#include <regex>
#include <set>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "trainer/config/fields.h"

namespace qkr::test {
namespace {

std::set<std::string> matches(const std::string& text, const std::regex& pattern) {
  std::set<std::string> found;
  for (std::sregex_iterator one(text.begin(), text.end(), pattern), end; one != end; ++one) found.insert((*one)[1]);
  return found;
}

// "-h,--help" and "  --config TEXT" alike: the flags that --help lists.
std::set<std::string> flags_of(const std::string& program) {
  const Outcome help = run_program({program, "--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  static const std::regex kFlag("(?:^|\\n) +(?:-\\w,)?(--[a-z-]+)");
  std::set<std::string> flags = matches(help.out, kFlag);
  flags.erase("--help");
  return flags;
}

// The flags that a text gives to a program: in a command line (over its continuation lines), or in `code`.
std::set<std::string> flags_in(const std::string& text, const std::string& program, const std::set<std::string>& all_flags) {
  static const std::regex kFlag("(?:^|[\\s`\\[(|])(--[a-z][a-z-]*)");
  const std::regex command("(?:^|[\\s/`(|])" + program + "(?![\\w-])");  // sft-train has a flag that is called as another program
  std::set<std::string> used;
  bool continues = false;
  for (const std::string& line : lines_of(text)) {
    continues = std::regex_search(line, command) || continues;
    const std::set<std::string> found = matches(line, kFlag);
    if (continues) used.insert(found.begin(), found.end());
    for (const std::string& flag : found) {
      if (all_flags.count(flag) != 0) used.insert(flag);
    }
    continues = continues && !line.empty() && line.back() == '\\';
  }
  used.erase("--help");
  return used;
}

TEST(Help, ListsTheFlagsOfTheReadmeAndTheOtherWayRound) {
  const fs::path readme = source_dir() / "README.md";
  QKR_NEED_PATH(readme);
  const std::string text = read_file(readme);
  for (const std::string program : {"sft-train", "niah-probe", "qk-restore"}) {
    const std::set<std::string> flags = flags_of(program);
    const std::set<std::string> used = flags_in(text, program, flags);
    for (const std::string& flag : used) EXPECT_EQ(flags.count(flag), 1u) << "README.md gives " << program << " " << flag;
    if (program != "sft-train") continue;
    for (const std::string& flag : flags) EXPECT_EQ(used.count(flag), 1u) << "README.md does not name " << flag;
  }
}

TEST(Help, ListsEveryFlagOfThePrograms) {
  EXPECT_EQ(flags_of("sft-train"),
            (std::set<std::string>{"--config", "--config-schema", "--dry-run", "--dump-config", "--export-scripts", "--help-config", "--inspect",
                                   "--output", "--qk-restore", "--requeue", "--resume", "--set", "--version"}));
  EXPECT_EQ(flags_of("niah-probe"),
            (std::set<std::string>{"--attn-logits-scaling", "--batch", "--compare", "--device", "--dtype", "--haystack", "--heads", "--lengths",
                                   "--max-new-tokens", "--max-samples", "--mode", "--model", "--output", "--prefill-chunk", "--prompts",
                                   "--reading", "--resume", "--samples", "--seed", "--tasks", "--version", "--width"}));
}

TEST(Help, ListsEveryFlagOfQkRestore) {
  EXPECT_EQ(flags_of("qk-restore"),
            (std::set<std::string>{"--anchor", "--base", "--device", "--digests", "--dry-run", "--html", "--ignore-config", "--keep-biases", "--layers",
                                   "--link", "--method", "--out", "--parts", "--qk-norm", "--tuned", "--version"}));
}

TEST(Help, ListsEveryKeyOfTheConfiguration) {
  const Outcome help = run_program({"sft-train", "--help-config"});
  ASSERT_EQ(help.code, 0);
  RunConfig defaults;
  for (const Field& field : list_fields(defaults)) {
    EXPECT_NE(("\n" + help.out).find("\n" + field.path() + " "), std::string::npos) << field.path();
    EXPECT_NE(help.out.find(field.help), std::string::npos) << field.path();
  }
}

TEST(Version, IsOneLine) {
  for (const std::string program : {"sft-train", "niah-probe", "qk-restore"}) {
    const Outcome version = run_program({program, "--version"});
    EXPECT_EQ(version.code, 0);
    EXPECT_TRUE(std::regex_match(version.out, std::regex("qk-restore \\d+\\.\\d+\\.\\d+\n"))) << version.out;
  }
}

TEST(ConfigSchema, IsJsonWithEverySection) {
  const Outcome schema = run_program({"sft-train", "--config-schema"});
  ASSERT_EQ(schema.code, 0);
  const nlohmann::json json = nlohmann::json::parse(schema.out);
  for (const char* section : {"model", "data", "train", "optim", "qk_restore", "probe", "checkpoint", "log", "output"}) {
    EXPECT_TRUE(json.at("properties").contains(section)) << section;
  }
}

TEST(DumpConfig, OfEveryShippedFileReadsBackAsTheSame) {
  TmpDir folder;
  int files = 0;
  for (const auto& entry : fs::directory_iterator(source_dir() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const Outcome first = run_program({"sft-train", "--config", entry.path().string(), "--dump-config"});
    ASSERT_EQ(first.code, 0) << entry.path() << ": " << first.err;
    const Outcome again = run_program({"sft-train", "--config", folder.write("dumped.yaml", first.out).string(), "--dump-config"});
    EXPECT_EQ(again.out, first.out) << entry.path();
    EXPECT_EQ(again.code, 0) << again.err;
    ++files;
  }
  EXPECT_GE(files, 3);
}

TEST(DumpConfig, HoldsWhatFlagsAndSetSay) {
  TmpDir folder;
  const Outcome dumped = run_program(small_command(folder, {"--dump-config", "--qk-restore", "plain", "--set", "optim.lr=2e-5", "data.limit=7",
                                                            "--output", "elsewhere"}));
  ASSERT_EQ(dumped.code, 0) << dumped.err;
  for (const char* line : {"  method: plain\n", "  lr: 2e-05\n", "  limit: 7\n", "output: elsewhere\n", "  packing: true\n"}) {
    EXPECT_NE(dumped.out.find(line), std::string::npos) << line << dumped.out;
  }
}

TEST(Inspect, ShowsThatTheAnswerAloneIsTrained) {
  TmpDir folder;
  const Outcome shown = run_program(small_command(folder, {"--inspect", "2"}));
  ASSERT_EQ(shown.code, 0) << shown.err;
  const std::vector<nlohmann::json> rows = read_rows(source_dir() / "examples" / "tiny" / "cot.jsonl");
  for (size_t i = 0; i < 2; ++i) {
    const nlohmann::json& messages = rows[i]["messages"];
    const std::string question = messages[0]["content"], answer = messages[1]["content"];
    const size_t at = shown.out.find("⟦" + answer + "<|im_end|>");
    EXPECT_NE(at, std::string::npos) << shown.out;
    EXPECT_LT(shown.out.find(question), at);
    EXPECT_EQ(shown.out.find("⟦" + question), std::string::npos);
  }
  EXPECT_EQ(shown.out.find(rows[2]["messages"][1]["content"].get<std::string>()), std::string::npos) << "a third sample";
  EXPECT_FALSE(fs::exists(folder / "out"));
}

TEST(DryRun, SaysWhatARunWouldDoAndWritesNothing) {
  TmpDir folder;
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {"--dry-run", "--qk-restore", "procrustes"});
  const Outcome dry = run_program(small_command(folder, more));
  ASSERT_EQ(dry.code, 0) << dry.err;
  for (const char* words : {"HypeNet, 1,017,472 parameters, 4 layers, float32 on cpu", "softmax layers 1 3", "lightning layers 0 2",
                            "24 of 24 samples", "6 steps of at most 512 tokens", "haystack.txt sha256 ", "restore  procrustes"}) {
    EXPECT_NE(dry.out.find(words), std::string::npos) << words << "\n" << dry.out;
  }
  EXPECT_EQ(files_below(folder.path()), std::vector<std::string>{"run.yaml"});
}

TEST(DryRun, SaysWhatOfTheRestoreIsNotTheDefault) {
  TmpDir folder;
  const auto restore_line = [&](std::vector<std::string> set) {
    set.insert(set.begin(), {"--dry-run", "--set"});
    const Outcome dry = run_program(small_command(folder, set));
    EXPECT_EQ(dry.code, 0) << dry.err;
    const size_t at = dry.out.find("restore  ");
    return at == std::string::npos ? dry.out : dry.out.substr(at, dry.out.find('\n', at) - at);
  };
  EXPECT_EQ(restore_line({"qk_restore.method=none"}), "restore  none");
  EXPECT_EQ(restore_line({"qk_restore.method=procrustes"}), "restore  procrustes, anchor 1.0e-02");
  EXPECT_EQ(restore_line({"qk_restore.method=qk-pro", "qk_restore.layers=all"}), "restore  qk-pro, ridge 1.0e-06, all layers");
  EXPECT_EQ(restore_line({"qk_restore.method=plain", "qk_restore.layers=[3, 1]", "qk_restore.parts=mixer", "qk_restore.biases=false"}),
            "restore  plain, layers 3 1, parts mixer, biases stay as tuned");
  EXPECT_EQ(restore_line({"qk_restore.method=lerp:0.5", "qk_restore.layers=linear", "qk_restore.qk_norm=true"}),
            "restore  lerp:0.5, linear layers alone, with the gains of QK-norm");
  EXPECT_EQ(restore_line({"qk_restore.method=plain", "qk_restore.at=every 2"}), "restore  plain, every 2 steps and at the end (moments: reset)");
}

TEST(DryRun, OfTheDemoPasses) {
  QKR_NEED_PATH(source_dir() / "examples" / "tiny" / "model" / "model.safetensors");
  TmpDir folder;
  const Outcome dry = run_program({"sft-train", "--config", "configs/demo.yaml", "--dry-run", "--output", (folder / "out").string()});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_TRUE(files_below(folder.path()).empty());
}

TEST(Usage, IsRefusedInOneLine) {
  const std::vector<std::vector<std::string>> wrong = {
      {"sft-train", "--no-such-flag"}, {"sft-train", "--inspect", "0", "--config", "x"}, {"sft-train"}, {"sft-train", "--config"},
      {"sft-train", "--inspect", "two", "--config", "x"}};
  for (const auto& command : wrong) {
    const Outcome outcome = run_program(command);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
    EXPECT_EQ(outcome.err.rfind("sft-train: ", 0), 0u) << outcome.err;
  }
}

}  // namespace
}  // namespace qkr::test
