// Our folders in Hugging Face's transformers, and its folders here: the same logits. Needs a Python with transformers:
// $QKR_HF_PYTHON, else build/venv's, else python3; $QKR_HF_MODEL names a real model folder to compare as well.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/e2e/small_run.h"
#include "tests/support/accuracy.h"
#include "tests/support/fixtures.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/folder.h"

namespace qkr::test {
namespace {

std::string python() {
  if (const char* given = std::getenv("QKR_HF_PYTHON")) return given;
  const fs::path ours = source_dir() / "build" / "venv" / "bin" / "python";
  if (fs::exists(ours)) return ours.string();
  return fs::exists("/usr/bin/python3") ? "/usr/bin/python3" : "";
}

std::string script() { return (source_dir() / "tests" / "e2e" / "hf_logits.py").string(); }

// "" if transformers is there, else why not.
const std::string& why_no_transformers() {
  static const std::string reason = []() -> std::string {
    if (python().empty()) return "there is no Python";
    const Outcome check = run_program({python(), script(), "--check"});
    if (check.code == 0) return "";
    const std::vector<std::string> lines = lines_of(check.err);
    return python() + " cannot import transformers: " + (lines.empty() ? "no reason given" : lines.back());
  }();
  return reason;
}

at::Tensor our_logits(const fs::path& folder, const std::vector<int64_t>& ids) {
  const Decoder decoder = load_decoder(ModelSource::read(folder.string(), "checkpoint"), at::kFloat, at::kCPU);
  const at::Tensor tokens = at::tensor(ids, at::kLong);
  at::NoGradGuard no_grad;
  return decoder.logits(decoder.forward(tokens, Segments::packed({0, tokens.size(0)}, at::kCPU)));
}

// `count` ids that a vocabulary of `vocab` tokens has, spread over all of it.
std::vector<int64_t> some_ids(int64_t count, int64_t vocab) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back((i * i * 2654435761 + 17 * i) % vocab);
  return ids;
}

void export_as(const fs::path& source_folder, at::ScalarType dtype, const fs::path& target) {
  const ModelSource source = ModelSource::read(source_folder.string(), "checkpoint");
  save_model(target, source, load_decoder(source, dtype, at::kCPU).weights());
}

struct Job {
  fs::path model;
  std::vector<int64_t> ids;
  fs::path logits, save;
};

Outcome ask_transformers(const TmpDir& folder, const std::vector<Job>& jobs) {
  nlohmann::json list = nlohmann::json::array();
  for (const Job& job : jobs) {
    nlohmann::json one = {{"model", job.model.string()}, {"ids", job.ids}, {"logits", job.logits.string()}};
    if (!job.save.empty()) one["save"] = job.save.string();
    list.push_back(one);
  }
  Launch launch;
  launch.timeout_seconds = 1000;  // a real model may take its time
  return run_program({python(), script(), folder.write("jobs.json", list.dump()).string()}, launch);
}

at::Tensor their_logits(const fs::path& file) { return SafetensorsFile(file).tensor("logits").clone(); }

// Both ways for each family, with one start of Python for all.
TEST(Transformers, GiveOurLogitsForOurFoldersAndWeTheirsForTheirs) {
  if (!why_no_transformers().empty()) GTEST_SKIP() << why_no_transformers();
  TmpDir folder;
  std::vector<Job> jobs;
  for (const std::string model : {"llama-tiny", "qwen2-tiny", "qwen3-tiny"}) {
    const fs::path source = source_dir() / "tests" / "data" / "models" / model / "model";
    const int64_t vocab = read_json(source / "config.json")["vocab_size"];
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const std::string name = model + (dtype == at::kFloat ? "-fp32" : "-bf16");
      export_as(source, dtype, folder / name);
      jobs.push_back({folder / name, some_ids(70, vocab), folder / (name + ".safetensors"),
                      dtype == at::kFloat ? folder / (name + "-theirs") : fs::path()});
    }
  }
  const Outcome outcome = ask_transformers(folder, jobs);
  ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  EXPECT_EQ(outcome.out,
            "LlamaForCausalLM torch.float32\nLlamaForCausalLM torch.bfloat16\nQwen2ForCausalLM torch.float32\n"
            "Qwen2ForCausalLM torch.bfloat16\nQwen3ForCausalLM torch.float32\nQwen3ForCausalLM torch.bfloat16\n");
  for (const Job& job : jobs) {
    const at::Tensor theirs = their_logits(job.logits);
    ASSERT_GT(theirs.std().item<double>(), 0.5) << job.model << ": these logits tell nothing";
    EXPECT_LT(max_abs_difference(our_logits(job.model, job.ids), theirs), 1e-4) << job.model;
    if (job.save.empty()) continue;
    EXPECT_LT(max_abs_difference(our_logits(job.save, job.ids), theirs), 1e-4) << job.save;
  }
}

// A folder of your own: export QKR_HF_MODEL=<folder>. Prints the largest difference of a logit.
TEST(Transformers, GiveOurLogitsForARealModel) {
  const char* given = std::getenv("QKR_HF_MODEL");
  if (given == nullptr) GTEST_SKIP() << "QKR_HF_MODEL names no model folder";
  if (!why_no_transformers().empty()) GTEST_SKIP() << why_no_transformers();
  TmpDir folder;
  const std::vector<int64_t> ids = some_ids(64, ModelSource::read(given, "checkpoint").architecture.vocab_size);
  export_as(given, at::kFloat, folder / "export");
  const std::vector<Job> jobs = {{given, ids, folder / "given.safetensors", ""}, {folder / "export", ids, folder / "export.safetensors", ""}};
  const Outcome outcome = ask_transformers(folder, jobs);
  ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
  const at::Tensor ours = our_logits(given, ids);
  for (const Job& job : jobs) {
    const at::Tensor theirs = their_logits(job.logits);
    const double difference = max_abs_difference(ours, theirs);
    std::cout << job.model.filename().string() << ": largest difference of a logit " << difference << ", logits up to "
              << theirs.abs().max().item<double>() << "\n";
    EXPECT_LT(difference, 1e-3) << job.model;
  }
}

// transformers has no class for HypeNet; its own code does. So: the files and names that its own save_pretrained writes.
TEST(Transformers, WouldFindHypeNetsFilesAndNames) {
  for (const std::string model : {"hypenet-tiny", "hypenet-gqa-untied"}) {
    const fs::path source = source_dir() / "tests" / "data" / "models" / model / "model";
    TmpDir folder;
    export_as(source, at::kBFloat16, folder / "out");
    EXPECT_EQ(files_below(folder / "out"), (std::vector<std::string>{"config.json", "model.safetensors"}));
    const SafetensorsFolder official(source), ours(folder / "out");
    EXPECT_EQ(std::set<std::string>(ours.names().begin(), ours.names().end()),
              std::set<std::string>(official.names().begin(), official.names().end()));
    for (const std::string& name : ours.names()) {
      EXPECT_EQ(ours.shape(name), official.shape(name)) << name;
      EXPECT_EQ(ours.dtype(name), "BF16") << name;
    }
    EXPECT_EQ(SafetensorsFile(folder / "out" / "model.safetensors").metadata().at("format"), "pt");
    nlohmann::json config = read_json(folder / "out" / "config.json"), want = read_json(source / "config.json");
    const char* key = want.contains("dtype") ? "dtype" : "torch_dtype";
    EXPECT_EQ(config[key], "bfloat16");
    want[key] = "bfloat16";
    EXPECT_EQ(config, want);
  }
}

}  // namespace
}  // namespace qkr::test
