// YAML and --set → RunConfig: what is read, and the exact text of every refusal.
#include "trainer/config/parse.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"

namespace qkr {
namespace {

// The least that a configuration needs; its keys stand on lines 1 to 3.
const std::string kLeast =
    "model: {path: base}\n"
    "data: {train: [a.jsonl]}\n"
    "output: runs/x\n";

RunConfig parse(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return parse_config(yaml, "c.yaml", overrides);
}

// The error of kLeast with `more` from line 4 on.
std::string error_of(const std::string& more, const std::vector<std::string>& overrides = {}) {
  return QKR_MESSAGE_OF(parse(kLeast + more, overrides));
}

TEST(Parse, DefaultsAreThoseOfTheStructs) {
  const RunConfig config = parse(kLeast);
  EXPECT_EQ(config.model.path, "base");
  EXPECT_EQ(config.data.train, std::vector<std::string>{"a.jsonl"});
  EXPECT_EQ(config.output, "runs/x");
  EXPECT_EQ(config.optim.lr, 1.0e-5);
  EXPECT_EQ(config.optim.beta2, 0.95);
  EXPECT_EQ(config.data.max_length, 8192);
  EXPECT_EQ(config.model.attn_logits_scaling, "checkpoint");
  EXPECT_EQ(config.qk_restore.method, "none");
  EXPECT_EQ(config.probe.at, (std::vector<std::string>{"start", "end", "restored"}));
}

TEST(Parse, ReadsEveryType) {
  const RunConfig config = parse(kLeast +
                                 "optim: {lr: 2e-5, warmup: 100, beta1: +0.5}\n"
                                 "train: {max_steps: 1000000, shuffle: false, seed: +7}\n"
                                 "probe:\n  lengths: [1024, 4096]\n  tasks:\n  - niah_single_1\n"
                                 "log: {progress: off}\n"
                                 "save_sft_model: true\n");
  EXPECT_EQ(config.optim.lr, 2e-5);
  EXPECT_EQ(config.optim.warmup, 100);
  EXPECT_EQ(config.optim.beta1, 0.5);
  EXPECT_EQ(config.train.max_steps, 1000000);
  EXPECT_EQ(config.train.seed, 7);
  EXPECT_FALSE(config.train.shuffle);
  EXPECT_EQ(config.probe.lengths, (std::vector<int64_t>{1024, 4096}));
  EXPECT_EQ(config.probe.tasks, std::vector<std::string>{"niah_single_1"});
  EXPECT_EQ(config.log.progress, "off");  // a word, not YAML 1.1's false
  EXPECT_TRUE(config.save_sft_model);
}

TEST(Parse, NullIsTheDefaultOfASectionAndTheEmptyString) {
  const RunConfig config = parse("model: {path: base, chat_template: null}\ndata: {train: [a]}\nprobe:\noutput: o\n");
  EXPECT_EQ(config.model.chat_template, "");
  EXPECT_EQ(config.probe.samples, 50);
  EXPECT_EQ(error_of("optim: {lr: null}\n"), "c.yaml:4:9: optim.lr: must be a number, got null");
  EXPECT_EQ(error_of("train: {shuffle: ~}\n"), "c.yaml:4:9: train.shuffle: must be true or false, got null");
  EXPECT_EQ(error_of("qk_restore: {method: null}\n"),
            "c.yaml:4:14: qk_restore.method: must be one of none, plain, procrustes, procrustes-head, qk-pro, qk-pro-head, qk-pro-bilinear, lerp:A, q, k, qkv, auto, got null");
}

TEST(Parse, AttnLogitsScaling) {
  const auto scaling = [](const std::string& text) {
    return parse("model: {path: b, attn_logits_scaling: " + text + "}\ndata: {train: [a]}\noutput: o\n")
        .model.attn_logits_scaling;
  };
  EXPECT_EQ(scaling("null"), "null");
  EXPECT_EQ(scaling("~"), "null");
  EXPECT_EQ(scaling("checkpoint"), "checkpoint");
  EXPECT_EQ(scaling("hype 500"), "hype 500");
  EXPECT_EQ(scaling("\"hype 362.5\""), "hype 362.5");
  EXPECT_EQ(scaling("2.0"), "2.0");
  EXPECT_EQ(scaling("2.50"), "2.50");
  const auto refused = [&](const std::string& text) { return QKR_MESSAGE_OF(scaling(text)); };
  EXPECT_EQ(refused("2"),
            "c.yaml:1:39: model.attn_logits_scaling: must be a factor with a decimal point, got 2; write 2.0");
  for (const std::string text : {"hype", "hype 1", "hype x", "-1.0", "0.0", ".inf", "nan", "true", "[1.0]", "\"2.0\"", "\"\""}) {
    EXPECT_NE(refused(text).find("must be null, checkpoint, \"hype A\" with a number A >= 2, or a factor > 0"),
              std::string::npos)
        << text << ": " << refused(text);
  }
}

TEST(Parse, UnknownKeysNameTheNearest) {
  EXPECT_EQ(error_of("optim: {lrr: 1.0}\n"), "c.yaml:4:9: optim.lrr: unknown key; did you mean optim.lr?");
  EXPECT_EQ(error_of("optim:\n  lr: 1.0\n  wramup: 3\n"),
            "c.yaml:6:3: optim.wramup: unknown key; did you mean optim.warmup?");
  EXPECT_EQ(error_of("optim: {max_steps: 1}\n"), "c.yaml:4:9: optim.max_steps: unknown key; did you mean train.max_steps?");
  EXPECT_EQ(error_of("lr: 1.0\n"), "c.yaml:4:1: lr: unknown key; did you mean optim.lr?");
  EXPECT_EQ(error_of("optm: {lr: 1.0}\n"), "c.yaml:4:1: optm: unknown key; did you mean optim?");
  EXPECT_EQ(error_of("qk-restore: {method: plain}\n"), "c.yaml:4:1: qk-restore: unknown key; did you mean qk_restore?");
  EXPECT_EQ(error_of("max_step: 3\n"), "c.yaml:4:1: max_step: unknown key; did you mean train.max_steps?");
  EXPECT_EQ(error_of("optim.lr: 1.0\n"), "c.yaml:4:1: optim.lr: unknown key; write optim: {lr: ...}");
  EXPECT_EQ(error_of("train: {sede: 3}\n"), "c.yaml:4:9: train.sede: unknown key; did you mean train.seed?");
  EXPECT_EQ(error_of("zebra: []\n"), "c.yaml:4:1: zebra: unknown key");
  EXPECT_EQ(error_of("<<: {a: 1}\n"), "c.yaml:4:1: <<: unknown key");
}

TEST(Parse, WrongTypes) {
  EXPECT_EQ(error_of("optim: {lr: fast}\n"), "c.yaml:4:13: optim.lr: must be a number, got 'fast'");
  EXPECT_EQ(error_of("optim: {lr: \"1.0\"}\n"), "c.yaml:4:13: optim.lr: must be a number, got the string '1.0'");
  EXPECT_EQ(error_of("optim: {lr: .nan}\n"), "c.yaml:4:13: optim.lr: must be a number, got '.nan'");
  EXPECT_EQ(error_of("optim: {lr: inf}\n"), "c.yaml:4:13: optim.lr: must be a number, got 'inf'");
  EXPECT_EQ(error_of("optim: {lr: 1e999}\n"), "c.yaml:4:13: optim.lr: must be a number, got '1e999'");
  EXPECT_EQ(error_of("train: {max_steps: 1e6}\n"),
            "c.yaml:4:20: train.max_steps: must be an integer, got '1e6'; write 1000000");
  EXPECT_EQ(error_of("train: {max_steps: 2.5}\n"), "c.yaml:4:20: train.max_steps: must be an integer, got '2.5'");
  EXPECT_EQ(error_of("train: {max_steps: 99999999999999999999}\n"),
            "c.yaml:4:20: train.max_steps: must be an integer, got '99999999999999999999'");
  for (const std::string text : {"010", "0x10", "1_000", "1,000", "+-3", "--3", "\"5\""}) {
    EXPECT_NE(error_of("train:\n  max_steps: " + text + "\n").find("must be an integer"), std::string::npos) << text;
  }
  for (const std::string text : {"yes", "no", "on", "1", "True", "\"true\""}) {
    EXPECT_NE(error_of("train: {shuffle: " + text + "}\n").find("must be true or false"), std::string::npos) << text;
  }
  EXPECT_EQ(error_of("train: {seed: [1]}\n"), "c.yaml:4:15: train.seed: must be an integer, got a list");
  EXPECT_EQ(error_of("model2: x\noptim: 3\n"),
            "c.yaml:4:1: model2: unknown key; did you mean model?\n"
            "c.yaml:5:8: optim: must be a map of keys, such as optim: {lr: ...}, got '3'");
  EXPECT_EQ(error_of("optim: [lr]\n"), "c.yaml:4:8: optim: must be a map of keys, such as optim: {lr: ...}, got a list");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: b}\noutput: o\ndata:\n  train: a.jsonl\n")),
            "c.yaml:4:10: data.train: must be a list of strings, got 'a.jsonl'; write [a.jsonl]");
  EXPECT_EQ(error_of("probe: {lengths: [64, x, 3]}\n"),
            "c.yaml:4:23: probe.lengths: must be an integer, got 'x'\n"
            "c.yaml:4:26: probe.lengths: must be >= 64 and <= 16777216, got '3'");
}

TEST(Parse, ValuesOutOfRange) {
  EXPECT_EQ(error_of("optim: {lr: -1}\n"), "c.yaml:4:13: optim.lr: must be >= 0, got '-1'");
  EXPECT_EQ(error_of("optim: {eps: 0}\n"), "c.yaml:4:14: optim.eps: must be > 0, got '0'");
  EXPECT_EQ(error_of("optim: {min_lr_ratio: 1.5}\n"),
            "c.yaml:4:23: optim.min_lr_ratio: must be >= 0 and <= 1, got '1.5'");
  EXPECT_EQ(error_of("optim: {schedule: cosin}\n"),
            "c.yaml:4:19: optim.schedule: must be one of cosine, linear, constant, got 'cosin'; did you mean cosine?");
  EXPECT_EQ(error_of("probe: {tasks: [niah_single_4]}\n").substr(0, 94),
            "c.yaml:4:17: probe.tasks: must be one of niah_single_1, niah_single_2, niah_single_3, niah_mul");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: b}\noutput: o\ndata: {train: [a, \"\"]}\n")),
            "c.yaml:3:19: data.train: items must not be empty");
}

TEST(Parse, DuplicateKeysAreRefused) {
  EXPECT_EQ(error_of("optim: {lr: 1.0, lr: 2.0}\n"), "c.yaml:4:18: optim.lr: given twice, first on line 4");
  EXPECT_EQ(error_of("output: runs/y\n"), "c.yaml:4:1: output: given twice, first on line 3");
  EXPECT_EQ(error_of("data: {packing: true}\n"), "c.yaml:4:1: data: given twice, first on line 2");
  EXPECT_EQ(error_of("? [a]\n: 3\n"), "c.yaml:4:3: a key must be a word, got a list");
}

TEST(Parse, NotYaml) {
  EXPECT_EQ(error_of("optim: {lr: 1\nx: ["), "c.yaml:5:2: must be YAML, got an error: end of map flow not found");
  EXPECT_EQ(error_of("---\noptim: {}\n"), "c.yaml:4:1: must be one YAML document, got another");
  EXPECT_NE(error_of("log:\n  every: 1}\n"), "");
  EXPECT_NE(error_of("}\n"), "");  // yaml-cpp's own reader of all documents never comes back from this
  EXPECT_EQ(QKR_MESSAGE_OF(parse("output: \xff\n")), "c.yaml: must be UTF-8 text, got another byte at offset 8");
  EXPECT_EQ(QKR_MESSAGE_OF(parse(std::string("a\0b", 3))), "c.yaml: must be text, got a zero byte at offset 1");
  std::string deep = kLeast + "optim: ";
  for (int i = 0; i < 100000; ++i) deep += '[';
  EXPECT_NE(QKR_MESSAGE_OF(parse(deep)).find("must be YAML"), std::string::npos);
}

TEST(Parse, AnEscapeThatComesOutAsNoUtf8IsRefused) {
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: \"a\\_\"}\ndata: {train: [a, \"\\N\"]}\noutput: o\n")),
            "c.yaml:1:15: model.path: must be UTF-8, got the string 'a\\xa0'\n"
            "c.yaml:2:19: data.train: must be UTF-8, got the string '\\x85'");
}

// What a file that cannot be read lacks is not told, nor what an override does not find in it.
TEST(Parse, AFileThatCannotBeReadIsOneProblem) {
  const std::vector<std::string> set = {"gate[0].min=3", "optim.lrr=1"};
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: x\n", set)), "c.yaml:2:1: must be YAML, got an error: end of map flow not found");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("a: *b\n", set)), "c.yaml:1:4: must be YAML, got an error: the referenced anchor is not defined");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("---\na: 1\n---\nb: 2\n")), "c.yaml:3:1: must be one YAML document, got another");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("- a\n- b\n", set)), "c.yaml:1:1: must be a map of sections, got a list");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("hello\n")), "c.yaml:1:1: must be a map of sections, got 'hello'");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: a\ndata: {train: [a]}\noutput: o\n")),
            "c.yaml:1:8: model: must be a map of keys, such as model: {path: ...}, got 'a'");
}

TEST(Parse, RequiredKeys) {
  const std::string text = QKR_MESSAGE_OF(parse(""));
  EXPECT_EQ(text.rfind("c.yaml: model.path: must be given: Hugging Face model folder", 0), 0u) << text;
  EXPECT_NE(text.find("\nc.yaml: data.train: must be given: JSON-lines files\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\nc.yaml: output: must be given: "), std::string::npos) << text;
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: \"\"}\ndata: {train: []}\noutput: o\n")).rfind("c.yaml:1:9: model.path: must be given", 0), 0u);
  EXPECT_NO_THROW(parse("", {"model.path=b", "data.train=[a]", "output=o"}));
}

TEST(Parse, EveryProblemOfAFileAtOnceAndExitCode2) {
  try {
    parse(kLeast + "optim: {lrr: 1, beta1: 2}\ntrain: {seed: x}\n", {"log.every=0"});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_STREQ(error.what(),
                 "c.yaml:4:9: optim.lrr: unknown key; did you mean optim.lr?\n"
                 "c.yaml:4:24: optim.beta1: must be >= 0 and <= 0.9999999, got '2'\n"
                 "c.yaml:5:15: train.seed: must be an integer, got 'x'\n"
                 "--set log.every=0: log.every: must be >= 1, got '0'");
  }
}

TEST(Set, WinsOverTheFileAndTheLastOneWins) {
  const RunConfig config = parse(kLeast + "optim: {lr: 1.0}\n",
                                 {"optim.lr=2e-5", "data.train=[a.jsonl, b.jsonl]", "output=runs/a=b",
                                  "model.attn_logits_scaling=null", "data.separator=\"\\n\"", "train.seed=1", "train.seed=2"});
  EXPECT_EQ(config.optim.lr, 2e-5);
  EXPECT_EQ(config.data.train, (std::vector<std::string>{"a.jsonl", "b.jsonl"}));
  EXPECT_EQ(config.output, "runs/a=b");
  EXPECT_EQ(config.model.attn_logits_scaling, "null");
  EXPECT_EQ(config.data.separator, "\n");
  EXPECT_EQ(config.train.seed, 2);
}

TEST(Set, ErrorsNameTheText) {
  EXPECT_EQ(error_of("", {"optim.lrr=2e-5"}), "--set optim.lrr=2e-5: optim.lrr: unknown key; did you mean optim.lr?");
  EXPECT_EQ(error_of("", {"optm.lr=2e-5"}), "--set optm.lr=2e-5: optm.lr: unknown section optm; did you mean optim?");
  EXPECT_EQ(error_of("", {"lr=2e-5"}), "--set lr=2e-5: lr: unknown key; did you mean optim.lr?");
  EXPECT_EQ(error_of("", {"optim=3"}), "--set optim=3: optim is a section: give one of its keys, such as optim.lr");
  EXPECT_EQ(error_of("", {"optim.lr"}), "--set optim.lr: must be key=value, such as optim.lr=2e-5");
  EXPECT_EQ(error_of("", {"=3"}), "--set =3: must be key=value, such as optim.lr=2e-5");
  EXPECT_EQ(error_of("", {"optim.lr="}), "--set optim.lr=: optim.lr: must be a number, got null");
  EXPECT_EQ(error_of("", {"optim.lr=x"}), "--set optim.lr=x: optim.lr: must be a number, got 'x'");
  EXPECT_EQ(error_of("", {"data.train=[a"}), "--set data.train=[a: data.train: must be YAML, got an error: end of sequence flow not found");
  EXPECT_EQ(error_of("", {"optim.lr=*a"}), "--set optim.lr=*a: optim.lr: must be YAML, got an error: the referenced anchor is not defined");
  EXPECT_EQ(error_of("", {"train.seed=1\n---\n2"}).rfind("--set train.seed=1 --- 2: train.seed: must be one YAML document", 0), 0u);
  EXPECT_EQ(error_of("gate: [{metric: probe, min: 1}]\n", {"gate=[", "gate[0].min=2"}),
            "--set gate=[: gate: must be YAML, got an error: end of sequence flow not found");
  EXPECT_EQ(QKR_MESSAGE_OF(parse("model: {path: b}\noutput: o\n", {"data.train=[a"})),
            "--set data.train=[a: data.train: must be YAML, got an error: end of sequence flow not found");
}

TEST(LoadConfig, NamesTheFile) {
  const test::TmpDir dir;
  EXPECT_EQ(load_config(dir.write("c.yaml", kLeast).string(), {"train.seed=3"}).train.seed, 3);
  const std::string absent = (dir / "absent.yaml").string();
  EXPECT_EQ(QKR_MESSAGE_OF(load_config(absent, {})), absent + ": no such file");
  EXPECT_EQ(QKR_MESSAGE_OF(load_config(dir.path().string(), {})), dir.path().string() + ": must be a file, got a folder");
  const std::string large = dir.write("large.yaml", std::string((1 << 20) + 1, '#')).string();
  EXPECT_EQ(QKR_MESSAGE_OF(load_config(large, {})), large + ": must be a configuration of at most 1 MiB");
}

// Every file in configs/ parses, and says what its comments say.
TEST(Configs, AllParse) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(test::source_dir() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_EQ(QKR_MESSAGE_OF(load_config(entry.path().string(), {})), "") << entry.path();
    ++count;
  }
  EXPECT_GE(count, 3);
  const auto config = [](const std::string& name) {
    return load_config((test::source_dir() / "configs" / name).string(), {});
  };
  EXPECT_EQ(config("sft_hypenet.yaml").qk_restore.method, "procrustes");
  EXPECT_EQ(config("sft_qwen3.yaml").data.prompt_template, "chat");
  EXPECT_EQ(config("sft_llama.yaml").data.separator, "\n");
}

}  // namespace
}  // namespace qkr
