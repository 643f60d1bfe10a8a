#include "tests/e2e/small_run.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "tests/support/fixtures.h"
#include "trainer/model/folder.h"

namespace qkr::test {
namespace {

std::unique_ptr<FinishedRun> finish(const std::vector<std::string>& more) {
  auto run = std::make_unique<FinishedRun>();
  run->outcome = run_program(small_command(run->folder, more));
  return run;
}

std::string examples() { return (source_dir() / "examples" / "tiny").string(); }

}  // namespace

const fs::path& base_model() {
  static const TmpDir folder;
  static const fs::path model = [] {
    const ModelSource source = ModelSource::read(examples() + "/model", "checkpoint");
    save_model(folder / "base", source, random_decoder(source, at::kFloat, at::kCPU, 5).weights());
    return folder / "base";
  }();
  return model;
}

void copy_folder(const fs::path& source, const fs::path& target) {
  fs::create_directories(target);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.is_regular_file()) fs::copy_file(entry.path(), target / entry.path().filename());
  }
}

std::string small_config(const fs::path& model, const fs::path& output) {
  return "model:      {path: " + model.string() + ", dtype: float32, device: cpu}\n" +
         "data:       {train: [" + examples() + "/cot.jsonl], max_length: 256, limit: 24}\n" +
         "train:      {max_steps: 6, epochs: 4, tokens_per_step: 512}\n" +
         "optim:      {lr: 1.0e-3, warmup: 1}\n"
         "checkpoint: {every: 2}\n"
         "log:        {progress: off}\n" +
         "output:     " + output.string() + "\n";
}

std::vector<std::string> small_command(const TmpDir& folder, std::vector<std::string> more) {
  const fs::path config = folder.write("run.yaml", small_config(base_model(), folder / "out"));
  std::vector<std::string> command = {"sft-train", "--config", config.string()};
  command.insert(command.end(), more.begin(), more.end());
  return command;
}

std::vector<std::string> with_probe() {
  return {"--set", "probe.lengths=[256]", "probe.samples=2", "probe.max_new_tokens=8", "probe.haystack=" + examples() + "/haystack.txt"};
}

std::vector<std::string> probe_arguments() {
  return {"--lengths", "256", "--samples", "2", "--max-new-tokens", "8", "--haystack", examples() + "/haystack.txt",
          "--device", "cpu", "--dtype", "float32"};
}

std::vector<nlohmann::json> read_rows(const fs::path& jsonl) {
  std::vector<nlohmann::json> rows;
  for (const std::string& line : lines_of(read_file(jsonl))) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

std::vector<nlohmann::json> rows_of(const std::filesystem::path& jsonl) {
  std::vector<nlohmann::json> rows = read_rows(jsonl);
  for (nlohmann::json& row : rows) row.erase("seconds");
  return rows;
}

nlohmann::json read_json(const fs::path& json) { return nlohmann::json::parse(read_file(json)); }

std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) names.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

const FinishedRun& finished_run() {
  static const std::unique_ptr<FinishedRun> run = [] {
    std::vector<std::string> more = with_probe();
    more.insert(more.end(), {"save_sft_model=true", "--qk-restore", "procrustes"});
    return finish(more);
  }();
  return *run;
}

const FinishedRun& plain_run() {
  static const std::unique_ptr<FinishedRun> run = finish({"--qk-restore", "plain", "--set", "save_sft_model=true"});
  return *run;
}

}  // namespace qkr::test
