// What a person can get wrong. Each fault by itself: exit code 2, one line that names the file, the place and the rule, and
// nothing written.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/folder.h"

namespace qkr::test {
namespace {

constexpr const char* kRow = R"({"messages": [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]})";

// A small run that would go well, in files that a fault may change before it starts.
struct Workspace {
  TmpDir folder;
  fs::path model = folder / "model", data = folder / "rows.jsonl", config = folder / "run.yaml", output = folder / "out";
  std::vector<std::string> set, flags;

  Workspace() {
    copy_folder(base_model(), model);
    folder.write("rows.jsonl", std::string(kRow) + "\n" + kRow + "\n");
    write_config("");
  }
  void write_config(const std::string& more) {
    folder.write("run.yaml", "model: {path: " + model.string() + ", dtype: float32, device: cpu}\ndata: {train: [" + data.string() +
                                 "], max_length: 64}\n" + more + "output: " + output.string() + "\n");
  }
  void second_row(const std::string& row) { folder.write("rows.jsonl", std::string(kRow) + "\n" + row + "\n"); }
  void change_model_config(const std::function<void(nlohmann::json&)>& change) {
    nlohmann::json json = read_json(model / "config.json");
    change(json);
    folder.write("model/config.json", json.dump());
  }
  void change_weights(const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
    std::map<std::string, at::Tensor> tensors;
    const SafetensorsFile file(base_model() / "model.safetensors");
    for (const std::string& name : file.names()) tensors[name] = file.tensor(name);
    change(tensors);
    NamedTensors changed;
    for (const auto& [name, tensor] : tensors) changed.set(name, tensor);
    write_safetensors(model / "model.safetensors", changed, {{"format", "pt"}});
  }
  Outcome run() const {
    std::vector<std::string> command = {"sft-train", "--config", config.string(), "--set", "log.tensorboard=false"};
    command.insert(command.end(), set.begin(), set.end());
    command.insert(command.end(), flags.begin(), flags.end());
    return run_program(command);
  }
};

struct Fault {
  const char* name;
  std::function<void(Workspace&)> make;
  std::vector<std::string> says;  // each of these stands in the line; $ is the workspace's folder
};

std::ostream& operator<<(std::ostream& out, const Fault& fault) { return out << fault.name; }

std::string in_folder(std::string text, const TmpDir& folder) {
  const size_t dollar = text.find('$');
  return dollar == std::string::npos ? text : text.replace(dollar, 1, folder.path().string());
}

class BadInput : public ::testing::TestWithParam<Fault> {};

TEST_P(BadInput, IsOneLineAndNothingWritten) {
  Workspace work;
  GetParam().make(work);
  const bool was_there = fs::exists(work.output);
  const std::vector<std::string> before = files_below(work.folder.path());
  const Outcome outcome = work.run();
  EXPECT_EQ(outcome.code, 2) << outcome.out << outcome.err;
  EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
  EXPECT_EQ(outcome.err.rfind("sft-train: ", 0), 0u) << outcome.err;
  for (const std::string& words : GetParam().says) {
    EXPECT_NE(outcome.err.find(in_folder(words, work.folder)), std::string::npos) << "wanted: " << words << "\ngot: " << outcome.err;
  }
  EXPECT_EQ(outcome.out.find("step 1/"), std::string::npos) << outcome.out;
  EXPECT_EQ(files_below(work.folder.path()), before);
  EXPECT_EQ(fs::exists(work.output), was_there);
}

std::vector<Fault> config_faults() {
  return {
      {"UnknownKey", [](Workspace& w) { w.write_config("train: {max_step: 3}\n"); },
       {"$/run.yaml:3:9: ", "train.max_step: unknown key", "did you mean train.max_steps?"}},
      {"UnknownSection", [](Workspace& w) { w.write_config("optm: {lr: 1.0e-5}\n"); }, {"$/run.yaml:3:1: ", "optm", "did you mean optim?"}},
      {"UnknownKeyInSet", [](Workspace& w) { w.set = {"optim.learning_rat=1"}; }, {"--set optim.learning_rat=1: ", "unknown key"}},
      {"UnknownWord", [](Workspace& w) { w.write_config("qk_restore: {method: procrustse}\n"); },
       {"$/run.yaml:3:22: qk_restore.method: must be one of none, plain, procrustes", "got 'procrustse'", "did you mean procrustes?"}},
      {"UnknownWordInFlag", [](Workspace& w) { w.flags = {"--qk-restore", "plan"}; }, {"qk_restore.method: must be one of", "did you mean plain?"}},
      {"WrongType", [](Workspace& w) { w.write_config("train: {max_steps: many}\n"); },
       {"$/run.yaml:3:20: train.max_steps: must be an integer, got 'many'"}},
      {"OutOfRange", [](Workspace& w) { w.set = {"optim.lr=-1"}; }, {"optim.lr: must be >= 0, got '-1'"}},
      {"NotYaml", [](Workspace& w) { w.write_config("train: {max_steps: 3\n"); }, {"$/run.yaml:", "must be YAML, got an error: "}},
      {"NotYamlInSet", [](Workspace& w) { w.set = {"data.train=[a"}; }, {"--set data.train=[a: data.train: must be YAML, got an error: "}},
      {"Contradiction", [](Workspace& w) { w.set = {"train.micro_batch_tokens=32"}; },
       {"train.micro_batch_tokens: must be 0 or >= data.max_length (64)"}},
      {"MissingConfigFile", [](Workspace& w) { fs::remove(w.config); }, {"$/run.yaml: no such file"}},
      {"InspectNothing", [](Workspace& w) { w.flags = {"--inspect", "0"}; }, {"--inspect: Value 0 not in range 1 to 1000000"}},
      {"NoOutputNamed", [](Workspace& w) { w.flags = {"--set", "output="}; }, {"output: must be given"}},
  };
}

void shorten(const fs::path& file, uintmax_t bytes) { fs::resize_file(file, bytes); }

// A safetensors file whose header is `header` (its length before it) and whose data is `bytes` zeros.
void write_header(const fs::path& file, const std::string& header, size_t bytes) {
  uint64_t length = header.size();
  std::ofstream out(file, std::ios::binary | std::ios::trunc);
  out.write(reinterpret_cast<const char*>(&length), sizeof length);
  out << header << std::string(bytes, '\0');
}

std::vector<Fault> model_faults() {
  return {
      {"MissingModelFolder", [](Workspace& w) { w.set = {"model.path=" + (w.folder / "nowhere").string()}; },
       {"$/nowhere: model.path must be a model folder, got nothing"}},
      {"MissingModelConfig", [](Workspace& w) { fs::remove(w.model / "config.json"); }, {"$/model/config.json: must exist, got no such file"}},
      {"MissingTokenizer", [](Workspace& w) { fs::remove(w.model / "tokenizer.json"); }, {"$/model/tokenizer.json: no such file"}},
      {"BrokenTokenizer", [](Workspace& w) { w.folder.write("model/tokenizer.json", "{\"model\": 1"); }, {"$/model/tokenizer.json: "}},
      {"BrokenModelConfig", [](Workspace& w) { w.folder.write("model/config.json", "{\"model_type\": "); }, {"$/model/config.json:1:16: must be JSON, got unexpected end of input"}},
      {"UnknownModelType", [](Workspace& w) { w.change_model_config([](auto& json) { json["model_type"] = "mamba"; }); },
       {"$/model/config.json: model_type", "hypenet, hybrid, qwen3, qwen2 or llama", "mamba"}},
      {"UnknownModelKey", [](Workspace& w) { w.change_model_config([](auto& json) { json["sliding_windows"] = 128; }); },
       {"$/model/config.json: ", "sliding_windows"}},
      {"VocabularySmallerThanTokenizer", [](Workspace& w) { w.change_model_config([](auto& json) { json["vocab_size"] = 1000; }); },
       {"$/model/config.json: vocab_size must be at least the tokenizer's 1024 tokens, got 1000"}},
      {"NoChatTemplate",
       [](Workspace& w) {
         nlohmann::json json = read_json(w.model / "tokenizer_config.json");
         json.erase("chat_template");
         w.folder.write("model/tokenizer_config.json", json.dump());
       },
       {"$/model: must have a chat template for data.format: messages, got none", "model.chat_template"}},
      {"MissingChatTemplateFile", [](Workspace& w) { w.set = {"model.chat_template=" + (w.folder / "chat.jinja").string()}; },
       {"$/chat.jinja: must exist, got no such file"}},
      {"BrokenChatTemplate",
       [](Workspace& w) { w.set = {"model.chat_template=" + w.folder.write("chat.jinja", "{% for x in %}").string()}; },
       {"$/chat.jinja"}},
      {"NoGpu",
       [](Workspace& w) {
         if (at::hasCUDA()) w.set = {"model.device=gpu"};
         else w.set = {"model.device=cuda"};
       },
       {"model.device: must be"}},
  };
}

std::vector<Fault> weight_faults() {
  return {
      {"MissingWeights", [](Workspace& w) { fs::remove(w.model / "model.safetensors"); },
       {"$/model: must hold model.safetensors or model.safetensors.index.json, got neither"}},
      {"TruncatedWeights", [](Workspace& w) { shorten(w.model / "model.safetensors", 100'000); }, {"$/model/model.safetensors: ", "must"}},
      {"TruncatedHeader", [](Workspace& w) { shorten(w.model / "model.safetensors", 60); }, {"$/model/model.safetensors: ", "must"}},
      {"EmptyWeights", [](Workspace& w) { shorten(w.model / "model.safetensors", 0); }, {"$/model/model.safetensors: ", "must"}},
      {"LyingLength", [](Workspace& w) { std::ofstream(w.model / "model.safetensors") << std::string(64, '\xff'); },
       {"$/model/model.safetensors: ", "header"}},
      {"LyingOffsets",
       [](Workspace& w) {
         write_header(w.model / "model.safetensors", R"({"model.norm.weight":{"dtype":"F32","shape":[128],"data_offsets":[0,5120]}})", 512);
       },
       {"$/model/model.safetensors: ", "model.norm.weight", "must"}},
      {"LyingShape",
       [](Workspace& w) {
         write_header(w.model / "model.safetensors", R"({"model.norm.weight":{"dtype":"F32","shape":[129],"data_offsets":[0,512]}})", 512);
       },
       {"$/model/model.safetensors: ", "model.norm.weight", "must"}},
      {"ShapeAgainstConfig", [](Workspace& w) { w.change_model_config([](auto& json) { json["intermediate_size"] = 400; }); },
       {"$/model: tensor model.layers.0.mlp.", "shape must be [", "400", "by config.json, got [", "384"}},
      {"MissingTensor", [](Workspace& w) { w.change_weights([](auto& tensors) { tensors.erase("model.layers.1.self_attn.q_proj.weight"); }); },
       {"$/model: tensor model.layers.1.self_attn.q_proj.weight is missing"}},
      {"TensorTooMany", [](Workspace& w) { w.change_weights([](auto& tensors) { tensors["model.layers.9.x"] = at::zeros({2}); }); },
       {"$/model: tensor model.layers.9.x is not part of the model"}},
      {"WrongDtype",
       [](Workspace& w) { w.change_weights([](auto& tensors) { tensors["model.norm.weight"] = at::zeros({128}, at::kInt); }); },
       {"$/model: tensor model.norm.weight: dtype must be F32, BF16, F16 or F64, got I32"}},
      {"UntiedHeadOfATiedModel",
       [](Workspace& w) { w.change_weights([](auto& tensors) { tensors["lm_head.weight"] = at::zeros({1024, 128}); }); },
       {"$/model: tensor lm_head.weight must equal model.embed_tokens.weight"}},
  };
}

std::vector<Fault> data_faults() {
  const auto row = [](const std::string& text) { return [text](Workspace& w) { w.second_row(text); }; };
  return {
      {"MissingData", [](Workspace& w) { fs::remove(w.data); }, {"$/rows.jsonl: must exist, got no such file"}},
      {"EmptyData", [](Workspace& w) { w.folder.write("rows.jsonl", "\n\n"); }, {"$/rows.jsonl: must have at least one row, got none"}},
      {"NotJson", row("{\"messages\": ["), {"$/rows.jsonl:2:"}},
      {"NotAnObject", row("[1]"), {"$/rows.jsonl:2: must be one JSON object a line"}},
      {"NoSuchField", row(R"({"question": "One?", "answer": "Two."})"), {"$/rows.jsonl:2: must have the field 'messages', got "}},
      {"UnknownRole", row(R"({"messages": [{"role": "user", "content": "a"}, {"role": "asistant", "content": "b"}]})"),
       {"$/rows.jsonl:2: messages[1].role: must be one of system, user, assistant, tool, got 'asistant'", "did you mean assistant?"}},
      {"NullContent", row(R"({"messages": [{"role": "user", "content": null}, {"role": "assistant", "content": "b"}]})"),
       {"$/rows.jsonl:2: messages[0].content: must be a string, got null"}},
      {"NoMessages", row(R"({"messages": []})"), {"$/rows.jsonl:2: messages: must not be empty"}},
      {"NoLabelledToken", row(R"({"messages": [{"role": "user", "content": "Only a question?"}]})"),
       {"$/rows.jsonl:2: must have a trained token, got none", "data.no_label"}},
      {"EveryRowOverLength", [](Workspace& w) { w.set = {"data.max_length=8"}; },
       {"data.train: every row is longer than data.max_length (8)", "2 rows of", "data.over_length: truncate"}},
      {"OverLengthIsAnError", [](Workspace& w) { w.set = {"data.max_length=8", "data.over_length=error"}; },
       {"$/rows.jsonl:1: must be at most data.max_length (8) tokens long, got "}},
      {"MissingHaystack",
       [](Workspace& w) { w.set = {"probe.lengths=[256]", "probe.haystack=" + (w.folder / "book.txt").string()}; },
       {"$/book.txt: must exist, got no such file"}},
      {"ProbeTooShort",
       [](Workspace& w) { w.set = {"probe.lengths=[64]", "probe.tasks=[niah_single_1]", "probe.max_new_tokens=8"}; },
       {"niah_single_1", "64"}},
  };
}

std::vector<Fault> output_faults() {
  return {
      {"OutputNotEmpty", [](Workspace& w) { w.folder.write("out/notes.txt", "mine"); },
       {"$/out: output must be empty or absent, got a folder with files", "--resume"}},
      {"OutputIsAFile", [](Workspace& w) { w.folder.write("out", "mine"); }, {"$/out: output must be a folder, got a file"}},
      {"OutputIsTheModel", [](Workspace& w) { w.flags = {"--output", w.model.string()}; }, {"output: must not be model.path"}},
      {"ResumeOfNothing", [](Workspace& w) { w.flags = {"--resume"}; }, {"$/out: --resume needs the folder of an earlier start, got nothing"}},
      {"ResumeOfAnEmptyFolder",
       [](Workspace& w) {
         fs::create_directories(w.output);
         w.flags = {"--resume"};
       },
       {"$/out: --resume needs the folder of an earlier start, got an empty folder"}},
      {"ResumeOfAnotherFolder",
       [](Workspace& w) {
         w.folder.write("out/notes.txt", "mine");
         w.flags = {"--resume"};
       },
       {"$/out: --resume needs the folder of an earlier start, got one without config.yaml"}},
      // 2.4 million million parameters: no disk has room for them, and the answer comes before anything is allocated.
      {"DiskWithoutRoom",
       [](Workspace& w) {
         w.change_model_config([](auto& json) {
           json["hidden_size"] = 65536;
           json["intermediate_size"] = 262144;
           json["num_hidden_layers"] = 40;
           json["mixer_types"] = std::vector<std::string>(40, "attn");
         });
         w.set = {"model.init=random"};
       },
       {"$/out: needs ", " TiB for the model and the checkpoints, ", " are free"}},
  };
}

std::string fault_name(const ::testing::TestParamInfo<Fault>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Config, BadInput, ::testing::ValuesIn(config_faults()), fault_name);
INSTANTIATE_TEST_SUITE_P(Model, BadInput, ::testing::ValuesIn(model_faults()), fault_name);
INSTANTIATE_TEST_SUITE_P(Weights, BadInput, ::testing::ValuesIn(weight_faults()), fault_name);
INSTANTIATE_TEST_SUITE_P(Data, BadInput, ::testing::ValuesIn(data_faults()), fault_name);
INSTANTIATE_TEST_SUITE_P(Output, BadInput, ::testing::ValuesIn(output_faults()), fault_name);

// The workspace itself is good: what the faults are told apart by.
TEST(GoodInput, PassesADryRunAndWritesNothing) {
  Workspace work;
  work.flags = {"--dry-run"};
  const std::vector<std::string> before = files_below(work.folder.path());
  const Outcome outcome = work.run();
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "");
  EXPECT_NE(outcome.out.find("dry run: everything that a run needs is there"), std::string::npos) << outcome.out;
  EXPECT_EQ(files_below(work.folder.path()), before);
  EXPECT_FALSE(fs::exists(work.output));
}

TEST(BadInputs, AreNamedALineEach) {
  Workspace work;
  work.write_config("train: {max_step: 3, seed: -1}\n");
  const Outcome outcome = work.run();
  EXPECT_EQ(outcome.code, 2);
  const std::vector<std::string> lines = lines_of(outcome.err);
  ASSERT_EQ(lines.size(), 2u) << outcome.err;
  EXPECT_NE(lines[0].find("train.max_step: unknown key"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("train.seed: must be >= 0, got '-1'"), std::string::npos) << lines[1];
}

struct ProbeFault {
  const char* name;
  std::vector<std::string> arguments;  // $ is the test's folder
  std::string says;
};

std::ostream& operator<<(std::ostream& out, const ProbeFault& fault) { return out << fault.name; }

class BadProbeInput : public ::testing::TestWithParam<ProbeFault> {};

TEST_P(BadProbeInput, IsOneLineAndNothingWritten) {
  TmpDir folder;
  folder.write("there.jsonl", "mine\n");
  copy_folder(base_model(), folder / "small-vocabulary");
  nlohmann::json config = read_json(base_model() / "config.json");
  config["vocab_size"] = 1000;
  folder.write("small-vocabulary/config.json", config.dump());
  const std::vector<std::string> before = files_below(folder.path());
  std::vector<std::string> command = {"niah-probe"};
  for (const std::string& argument : GetParam().arguments) command.push_back(in_folder(argument, folder));
  if (command[1] == "--model=good") command[1] = "--model=" + base_model().string();
  if (command[2] == "good") command[2] = base_model().string();
  const Outcome outcome = run_program(command);
  EXPECT_EQ(outcome.code, 2) << outcome.out;
  EXPECT_EQ(outcome.out, "");
  ASSERT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
  EXPECT_EQ(outcome.err.rfind("niah-probe: " + in_folder(GetParam().says, folder), 0), 0u) << outcome.err;
  EXPECT_EQ(files_below(folder.path()), before);
}

std::string probe_fault_name(const ::testing::TestParamInfo<ProbeFault>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(
    , BadProbeInput,
    ::testing::Values(
        ProbeFault{"NoModelNamed", {"--lengths", "256"}, "--model is required"},
        ProbeFault{"UnknownFlag", {"--model=good", "--length", "256"}, "The following argument"},
        ProbeFault{"MissingModel", {"--model=$/nowhere", "--tasks", "niah_single_1", "--lengths", "256"}, "$/nowhere: "},
        ProbeFault{"LengthTooSmall", {"--model=good", "--tasks", "niah_single_1", "--lengths", "32"},
                   "--lengths: must be >= 64 and <= 16777216, got '32'"},
        ProbeFault{"LengthOfDays", {"--model=good", "--tasks", "niah_single_1", "--lengths", "1000000000000"},
                   "--lengths: must be >= 64 and <= 16777216, got '1000000000000'"},
        ProbeFault{"LengthWithinNewTokens", {"--model=good", "--tasks", "niah_single_1", "--lengths", "128"},
                   "--lengths: must be > --max-new-tokens (128), which they include; got 128"},
        ProbeFault{"UnknownTask", {"--model=good", "--tasks", "niah_single_4", "--lengths", "256"},
                   "--tasks: must be one of niah_single_1, niah_single_2, niah_single_3, niah_multikey_1, niah_multikey_2, "
                   "niah_multikey_3, niah_multivalue, niah_multiquery, vt, got 'niah_single_4'"},
        ProbeFault{"MissingHaystack", {"--model=good", "--lengths", "256", "--haystack", "$/book.txt"}, "$/book.txt: "},
        ProbeFault{"SecondModelOfTwo", {"--compare", "good", "$/nowhere", "--lengths", "256"}, "--compare must name two result files or two model folders"},
        ProbeFault{"SecondModelOfTwoIsNone", {"--compare", "good", "$", "--lengths", "256"}, "$/config.json: must exist, got no such file"},
        ProbeFault{"OutputExists", {"--model=good", "--tasks", "niah_single_1", "--lengths", "256", "--output", "$/there.jsonl"},
                   "$/there.jsonl: --output must not exist yet (--resume goes on with it)"},
        ProbeFault{"SmallVocabulary", {"--model=$/small-vocabulary", "--tasks", "niah_single_1", "--lengths", "256"},
                   "$/small-vocabulary/config.json: vocab_size must be at least the tokenizer's 1024 tokens, got 1000"}),
    probe_fault_name);

}  // namespace
}  // namespace qkr::test
