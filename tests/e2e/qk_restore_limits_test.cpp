// qk-restore at its edges: what it refuses, how much memory it takes, what a kill leaves, what transformers makes of its output.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <chrono>
#include <thread>

#include "tests/e2e/offline_models.h"
#include "tests/support/fixtures.h"
#include "trainer/io/folder_copy.h"
#include "trainer/io/safetensors.h"

extern char** environ;

namespace qkr::test {
namespace {

TEST(OfflineHelp, ListsEveryFlag) {
  const Outcome help = run_program({"qk-restore", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* flag : {"--base", "--tuned", "--out", "--method", "--anchor", "--layers", "--parts", "--keep-biases", "--qk-norm",
                           "--ignore-config", "--dry-run", "--html", "--link", "--digests", "--device", "--version"}) {
    EXPECT_NE(help.out.find(std::string("\n  ") + flag + " "), std::string::npos) << flag;
  }
  EXPECT_NE(help.out.find("Exit codes: 0 done, 1 failed, 2 usage or input."), std::string::npos);
  const Outcome missing = run_program({"qk-restore", "--base", "x"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_EQ(missing.err, "qk-restore: --tuned is required; see qk-restore --help\n");
}

// A base and its tuned copy in a folder of its own, to be spoiled.
struct Copies {
  explicit Copies(const std::string& model = "hypenet-tiny") : base(folder / "base"), tuned(folder / "tuned"), out(folder / "out") {
    copy_folder(data_model(model), base);
    write_tuned(base, tuned);
  }
  void edit_config(const std::string& key, const nlohmann::json& value) const {
    nlohmann::ordered_json config = nlohmann::ordered_json::parse(read_file(tuned / "config.json"));
    config[key] = value;
    folder.write("tuned/config.json", config.dump());
  }
  void expect_refused(const std::string& what, const std::vector<std::string>& more = {"--method", "plain"}) const {
    const Outcome outcome = run_restore(base, tuned, out, more);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err << "lacks " << what;
    EXPECT_FALSE(fs::exists(out));
    EXPECT_FALSE(fs::exists(out.string() + ".partial"));
  }
  TmpDir folder;
  fs::path base, tuned, out;
};

TEST(OfflineRefuses, AConfigurationThatDiffersByItsFirstKey) {
  const Copies pair;
  pair.edit_config("rope_theta", 12345);
  pair.expect_refused(pair.tuned.string() + "/config.json: rope_theta must be as in " + pair.base.string() + ", 1e+06, got 12345");
  const Outcome allowed = run_restore(pair.base, pair.tuned, pair.out, {"--method", "plain", "--ignore-config", "rope_theta"});
  EXPECT_EQ(allowed.code, 0) << allowed.err;
}

TEST(OfflineRefuses, ALayerOfAnotherType) {
  const Copies pair;
  pair.edit_config("mixer_types", {"attn", "lightning-attn", "attn", "lightning-attn"});
  pair.expect_refused("mixer of layer 0 must be as in ");
}

TEST(OfflineRefuses, AnotherFamily) {
  const Copies pair;
  fs::remove_all(pair.tuned);
  copy_folder(data_model("qwen3-tiny"), pair.tuned);
  pair.expect_refused("model_type must be as in ");
}

TEST(OfflineRefuses, TheFirstTensorOfAnotherDtypeOrShapeOrName) {
  const Copies pair;
  const std::string name = "model.layers.2.self_attn.k_proj.weight";
  NamedTensors tensors = read_tensors(pair.tuned);
  const auto rewrite = [&](const NamedTensors& all) {
    for (const std::string& file : files_below(pair.tuned)) {
      if (file.find("safetensors") != std::string::npos) fs::remove(pair.tuned / file);
    }
    write_safetensors(pair.tuned / "model.safetensors", all);
  };
  NamedTensors changed = tensors;
  changed.set(name, tensors.at(name).to(at::kBFloat16));
  rewrite(changed);
  pair.expect_refused("tensor " + name + ": dtype must be as in " + pair.base.string() + ", F32, got BF16");
  changed.set(name, tensors.at(name).narrow(0, 0, 8).clone());
  rewrite(changed);
  pair.expect_refused("tensor " + name + ": shape must be ");
  NamedTensors fewer;
  for (const auto& [one, tensor] : tensors) {
    if (one != name) fewer.set(one, tensor);
  }
  rewrite(fewer);
  pair.expect_refused(pair.tuned.string() + ": tensor " + name + " must be there by config.json");
  tensors.set("model.layers.2.self_attn.extra", at::zeros({2}));
  rewrite(tensors);
  pair.expect_refused("tensor 'model.layers.2.self_attn.extra' must be part of the model");
}

TEST(OfflineRefuses, FlagsInItsOwnWords) {
  const Copies pair;
  pair.expect_refused("qk-restore: --method: must be one of none, plain, ", {"--method", "plane"});
  pair.expect_refused("qk-restore: --method: must be one method, got auto, which needs a run to score its candidates", {"--method", "auto"});
  pair.expect_refused("qk-restore: --anchor: must be ", {"--method", "procrustes", "--anchor", "-1"});
  pair.expect_refused("qk-restore: --layers: must name layers of the model, got 9", {"--method", "plain", "--layers", "1,9"});
  for (const char* layers : {"[1", "*a", "1: 2", "0, {", "'"}) {
    pair.expect_refused("qk-restore: --layers: must be ", {"--method", "plain", "--layers", layers});
  }
  pair.expect_refused("qk-restore: --layers: must be one of softmax, linear, all, got the string '[1'",
                      {"--method", "plain", "--layers", "[1"});
  pair.expect_refused("qk-restore: --method: must be one of none, plain, ", {"--method", "[plain"});
  pair.expect_refused("qk-restore: --anchor: must be a number, got the string '[1'", {"--method", "procrustes", "--anchor", "[1"});
  pair.expect_refused("--digests", {"--method", "plain", "--digests", "some"});
  pair.expect_refused("--ignore-config: must be ", {"--method", "plain", "--ignore-config", "hidden_size"});
}

TEST(OfflineRefuses, FoldersThatAreNotThereOrInTheWay) {
  const Copies pair;
  const std::vector<std::string> plain = {"--method", "plain"};
  Outcome outcome = run_restore(pair.folder / "absent", pair.tuned, pair.out, plain);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "qk-restore: --base: must be a model folder, got '" + (pair.folder / "absent").string() + "', which is not there\n");
  outcome = run_restore(pair.base, pair.tuned, pair.tuned / "out", plain);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("--out must lie outside " + pair.tuned.string()), std::string::npos) << outcome.err;
  const std::vector<std::string> before = files_below(pair.tuned);
  outcome = run_restore(pair.base, pair.base, pair.tuned, plain);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find(pair.tuned.string() + ": must not exist yet"), std::string::npos) << outcome.err;
  EXPECT_EQ(files_below(pair.tuned), before);
}

TEST(OfflineRefuses, WeightsThatAreNotFinite) {
  const Copies pair;
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const SafetensorsFolder files(pair.tuned);
  const float nan = std::nanf("");
  overwrite_bytes(files.file_of(name).file(), files.file_of(name).offset(name), {reinterpret_cast<const char*>(&nan), sizeof nan});
  const Outcome outcome = run_restore(pair.base, pair.tuned, pair.out, {"--method", "procrustes"});
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find(name), std::string::npos) << outcome.err;
  EXPECT_FALSE(fs::exists(pair.out));
  EXPECT_FALSE(fs::exists(pair.out.string() + ".partial"));
}

// One file with all tensors of `source` behind one of `bytes` zeros that the disk does not hold.
void write_sparse(const fs::path& source, const fs::path& target, int64_t bytes) {
  fs::create_directories(target);
  fs::copy_file(source / "config.json", target / "config.json");
  nlohmann::ordered_json header;
  header["lm_head.unused"] = {{"dtype", "U8"}, {"shape", {bytes}}, {"data_offsets", {0, bytes}}};
  int64_t end = bytes;
  const NamedTensors tensors = read_tensors(source);
  for (const auto& [name, tensor] : tensors) {
    const int64_t size = static_cast<int64_t>(tensor.nbytes());
    header[name] = {{"dtype", safetensors_name(tensor.scalar_type())}, {"shape", tensor.sizes().vec()}, {"data_offsets", {end, end + size}}};
    end += size;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  const fs::path file = target / "model.safetensors";
  std::ofstream(file, std::ios::binary) << std::string(reinterpret_cast<const char*>(&length), 8) << text;
  const auto data = static_cast<int64_t>(8 + text.size());
  fs::resize_file(file, data + end);
  for (const auto& [name, tensor] : tensors) {
    overwrite_bytes(file, data + header[name]["data_offsets"][0].get<int64_t>(),
                    {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()});
  }
}

// Runs a program of the build and returns its peak resident memory in bytes, its own and its libraries'; -1 if it failed.
int64_t peak_memory(std::vector<std::string> command) {
  const char* given = std::getenv("QKR_BIN");
  command[0] = ((given != nullptr ? fs::path(given) : fs::path(QKR_BINARY_DIR) / "bin") / command[0]).string();
  std::vector<char*> arguments;
  for (std::string& text : command) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  pid_t pid = -1;
  if (::posix_spawn(&pid, arguments[0], nullptr, nullptr, arguments.data(), environ) != 0) return -1;
  int status = 0;
  struct rusage usage {};
  if (::wait4(pid, &status, 0, &usage) != pid || status != 0) return -1;
  return usage.ru_maxrss * 1024;
}

TEST(OfflineMemory, DoesNotGrowWithTheModel) {
  const int64_t size = int64_t{std::getenv("QKR_BIG") != nullptr ? 20 : 3} << 30;
  const Copies pair("llama-tiny");
  write_sparse(pair.base, pair.folder / "big-base", size);
  write_sparse(pair.tuned, pair.folder / "big-tuned", size);
  const auto command = [&](const std::string& method) {
    return std::vector<std::string>{"qk-restore", "--base",     pair.folder / "big-base",
                                    "--tuned",    pair.folder / "big-tuned", "--out", pair.folder / method,
                                    "--method",   method,       "--device", "cpu", "--html", pair.folder / "moved.html"};
  };
  const int64_t idle = peak_memory({"qk-restore", "--version"});
  ASSERT_GT(idle, 0);
  ASSERT_LT(idle, int64_t{1} << 30);
  for (const std::string method : {"plain", "procrustes"}) {
    const int64_t peak = peak_memory(command(method));
    ASSERT_GT(peak, 0) << method;
    EXPECT_LT(peak - idle, 128 << 20) << method;  // the tensors in flight are tiny, the rest is what Torch itself brings
    const fs::path file = pair.folder / method / "model.safetensors";
    EXPECT_EQ(fs::file_size(file), fs::file_size(pair.folder / "big-tuned" / "model.safetensors"));
    struct stat info {};
    ASSERT_EQ(::stat(file.c_str(), &info), 0);
    EXPECT_LT(info.st_blocks * 512, 64 << 20) << "holes became zeros";
  }
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_TRUE(at::equal(SafetensorsFile(pair.folder / "plain" / "model.safetensors").tensor(name), read_tensors(pair.base).at(name)));
}

// `bytes` of data that the disk must hold, so that copying takes a while.
void write_ballast(const fs::path& file, int64_t bytes) {
  std::ofstream out(file, std::ios::binary);
  const std::string piece(1 << 20, 'b');
  for (int64_t i = 0; i < bytes; i += 1 << 20) out << piece;
}

std::vector<std::string> plain_command(const Copies& pair) {
  return {"qk-restore", "--base",   pair.base.string(), "--tuned", pair.tuned.string(), "--out", pair.out.string(),
          "--method",   "plain",    "--device",         "cpu"};
}

TEST(OfflineKilled, LeavesNoOutputFolderAndCanBeRunAgain) {
  const Copies pair;
  write_ballast(pair.tuned / "ballast.bin", 300 << 20);
  for (const int number : {SIGTERM, SIGKILL}) {
    Process process(plain_command(pair));
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!fs::exists(pair.out.string() + ".partial") && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    process.signal(number);
    const Outcome outcome = process.wait();
    EXPECT_EQ(outcome.code, number == SIGKILL ? -SIGKILL : 1) << outcome.err;
    EXPECT_FALSE(fs::exists(pair.out));
    EXPECT_EQ(fs::exists(pair.out.string() + ".partial"), number == SIGKILL);
  }
  fs::remove(pair.tuned / "ballast.bin");
  EXPECT_EQ(run_program(plain_command(pair)).code, 0);
  EXPECT_FALSE(fs::exists(pair.out.string() + ".partial"));
}

TEST(OfflineOutput, LoadsInTransformers) {
  const fs::path ours = source_dir() / "build" / "venv" / "bin" / "python";
  const char* given = std::getenv("QKR_HF_PYTHON");
  const std::string python = given != nullptr ? given : fs::exists(ours) ? ours.string() : "/usr/bin/python3";
  const std::string script = (source_dir() / "tests" / "e2e" / "hf_logits.py").string();
  QKR_NEED_PATH(fs::path(python));
  if (run_program({python, script, "--check"}).code != 0) GTEST_SKIP() << python << " cannot import transformers";
  const Copies pair("qwen3-tiny");
  ASSERT_EQ(run_program(plain_command(pair)).code, 0);
  nlohmann::json jobs = nlohmann::json::array();
  for (const fs::path& model : {pair.out, pair.tuned, pair.base}) {
    jobs.push_back({{"model", model.string()}, {"ids", {1, 5, 9, 200, 17, 3}}, {"logits", model.string() + ".logits"}});
  }
  const Outcome outcome = run_program({python, script, pair.folder.write("jobs.json", jobs.dump()).string()});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto logits = [](const fs::path& model) { return SafetensorsFile(model.string() + ".logits").tensor("logits").clone(); };
  EXPECT_TRUE(logits(pair.out).isfinite().all().item<bool>());
  EXPECT_FALSE(at::equal(logits(pair.out), logits(pair.tuned)));
  EXPECT_FALSE(at::equal(logits(pair.out), logits(pair.base)));
}

}  // namespace
}  // namespace qkr::test
