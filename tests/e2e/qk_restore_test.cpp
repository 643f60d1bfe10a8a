// qk-restore: what it writes, against its two inputs.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>

#include "tests/e2e/offline_models.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "trainer/io/folder_copy.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/architecture.h"
#include "trainer/restore/restore.h"

namespace qkr::test {
namespace {

// A base from tests/data and its tuned copy, one of each kind for all tests; nobody writes into them.
struct Pair {
  explicit Pair(const std::string& name) : base(data_model(name)), tuned(folder / "tuned") { write_tuned(base, tuned); }
  TmpDir folder;
  fs::path base, tuned;
};

const Pair& hypenet() {
  static const Pair pair("hypenet-tiny");
  return pair;
}

std::vector<MixerLayer> mixers(const fs::path& model) {
  return mixer_layers(parse_architecture(read_file(model / "config.json"), model.string()));
}

const Pair& sharded() {
  static const Pair pair("qwen3-tiny");
  return pair;
}

// Names of the q and k weights and biases of the softmax layers.
std::set<std::string> routing_names(const fs::path& model) {
  std::set<std::string> names;
  for (const MixerLayer& layer : mixers(model)) {
    for (const MixerTensor& tensor : layer.tensors) {
      const bool routing = tensor.part == MixerPart::kQ || tensor.part == MixerPart::kK;
      if (layer.softmax && routing && tensor.role != MixerRole::kGain) names.insert(tensor.name);
    }
  }
  return names;
}

// `out` has the bytes of `base` in the tensors `restored`, of `tuned` in every other byte of every file, and restore.json.
void expect_restored(const fs::path& base, const fs::path& tuned, const fs::path& out, const std::set<std::string>& restored) {
  const std::vector<std::string> tuned_files = files_below(tuned), out_files = files_below(out);
  std::set<std::string> files(tuned_files.begin(), tuned_files.end());
  files.insert("restore.json");
  EXPECT_EQ(std::set<std::string>(out_files.begin(), out_files.end()), files);
  const SafetensorsFolder from(base), to(tuned);
  std::map<std::string, std::string> expected;
  for (const std::string& file : tuned_files) {
    if (file != "restore.json") expected[file] = read_file(tuned / file);
  }
  for (const std::string& name : restored) {
    const at::Tensor bytes = from.tensor(name);
    const std::string file = fs::path(to.file_of(name).file()).filename().string();
    expected.at(file).replace(to.file_of(name).offset(name), bytes.nbytes(), static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes());
  }
  for (const auto& [file, bytes] : expected) EXPECT_TRUE(read_file(out / file) == bytes) << file;
}

class OfflinePlain : public ::testing::TestWithParam<std::string> {};

TEST_P(OfflinePlain, GivesTheBasesRoutingAndTheTunedModelsOtherBytes) {
  const Pair pair(GetParam());
  const std::set<std::string> names = routing_names(pair.base);
  ASSERT_FALSE(names.empty());
  const Outcome outcome = run_restore(pair.base, pair.tuned, pair.folder / "out");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  expect_restored(pair.base, pair.tuned, pair.folder / "out", names);
}

INSTANTIATE_TEST_SUITE_P(, OfflinePlain, ::testing::Values("hypenet-tiny", "hypenet-gqa-untied", "llama-tiny", "qwen2-tiny", "qwen3-tiny"),
                         [](const auto& model) {
                           std::string name = model.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Offline, LeavesTheLinearLayersAloneUnlessAsked) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  const std::string linear = "model.layers.0.self_attn.q_proj.weight", softmax = "model.layers.1.self_attn.q_proj.weight";
  ASSERT_FALSE(mixers(pair.base)[0].softmax);
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "softmax").code, 0);
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "linear", {"--method", "plain", "--layers", "linear"}).code, 0);
  const NamedTensors base = read_tensors(pair.base), tuned = read_tensors(pair.tuned);
  const NamedTensors one = read_tensors(folder / "softmax"), other = read_tensors(folder / "linear");
  EXPECT_TRUE(same_bytes(one.at(linear), tuned.at(linear)));
  EXPECT_TRUE(same_bytes(one.at(softmax), base.at(softmax)));
  EXPECT_TRUE(same_bytes(other.at(linear), base.at(linear)));
  EXPECT_TRUE(same_bytes(other.at(softmax), tuned.at(softmax)));
}

TEST(Offline, RestoresTheLayersThatAreNumbered) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "out", {"--method", "plain", "--layers", "0,3"}).code, 0);
  std::set<std::string> names;
  for (const char* name : {"0.self_attn.q_proj", "0.self_attn.k_proj", "3.self_attn.q_proj", "3.self_attn.k_proj"}) {
    names.insert(std::string("model.layers.") + name + ".weight");
  }
  expect_restored(pair.base, pair.tuned, folder / "out", names);
}

TEST(Offline, WritesASingleFileWithItsMetadata) {
  const Pair& pair = sharded();
  const TmpDir folder;
  write_single_file(pair.base, folder / "base");
  write_single_file(pair.tuned, folder / "tuned");
  const Outcome outcome = run_restore(folder / "base", folder / "tuned", folder / "out");
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  expect_restored(folder / "base", folder / "tuned", folder / "out", routing_names(pair.base));
  EXPECT_EQ(SafetensorsFile(folder / "out" / "model.safetensors").metadata().at("note"), "kept");
  // however the base is sharded
  ASSERT_EQ(run_restore(pair.base, folder / "tuned", folder / "again").code, 0);
  EXPECT_TRUE(read_file(folder / "again" / "model.safetensors") == read_file(folder / "out" / "model.safetensors"));
}

TEST(Offline, ProcrustesIsTheLibrarysOnTheWholeModel) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  const Outcome outcome = run_restore(pair.base, pair.tuned, folder / "out", {"--method", "procrustes", "--anchor", "0.05", "--qk-norm"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  NamedTensors expected = read_tensors(pair.tuned);
  RestoreConfigSection section;
  section.method = "procrustes";
  section.anchor = 0.05;
  section.qk_norm = true;
  const Snapshot snapshot = take_snapshot(read_tensors(pair.base), mixers(pair.base));
  const RestoreReport report = restore(expected, snapshot, section);
  const NamedTensors got = read_tensors(folder / "out");
  ASSERT_EQ(got.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(same_bytes(got.at(name), tensor)) << name;
  const nlohmann::json record = read_json(folder / "out" / "restore.json");
  EXPECT_EQ(record["anchor"], 0.05);
  ASSERT_EQ(record["layers"].size(), report.layers.size());
  for (size_t i = 0; i < report.layers.size(); ++i) {
    const nlohmann::json layer = record["layers"][i];
    EXPECT_EQ(layer["layer"], report.layers[i].layer);
    EXPECT_EQ(layer["written"], nlohmann::json(report.layers[i].written));
    EXPECT_NEAR(layer["rotation"].get<double>(), *report.layers[i].rotation, 1e-9);
    EXPECT_NEAR(layer["residual_after"].get<double>(), report.layers[i].residual_after, 1e-9);
  }
}

TEST(Offline, GivesTheWeightsThatTheTrainerGave) {
  const fs::path run = finished_run().out();
  ASSERT_EQ(finished_run().outcome.code, 0) << finished_run().outcome.err;
  const TmpDir folder;
  const Outcome outcome = run_restore(base_model(), run / "model-sft", folder / "out", {"--method", "procrustes"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(read_file(folder / "out" / "model.safetensors") == read_file(run / "model" / "model.safetensors"));
  EXPECT_FALSE(read_file(folder / "out" / "model.safetensors") == read_file(run / "model-sft" / "model.safetensors"));
}

TEST(Offline, EqualInputsGiveTheTunedModelAgain) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  for (const std::string method : {"plain", "lerp:0.5"}) {
    const Outcome outcome = run_restore(pair.tuned, pair.tuned, folder / method, {"--method", method});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    expect_restored(pair.tuned, pair.tuned, folder / method, {});
  }
}

TEST(Offline, APlainRestoreTwiceIsOneRestore) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "once").code, 0);
  ASSERT_EQ(run_restore(pair.base, folder / "once", folder / "twice").code, 0);
  expect_restored(pair.base, folder / "once", folder / "twice", {});
  const nlohmann::json record = read_json(folder / "twice" / "restore.json");
  EXPECT_EQ(record["tuned"], (folder / "once").string());  // not the first record, carried along
}

TEST(Offline, LinksWhatDoesNotChange) {
  const Pair& pair = sharded();
  const TmpDir folder;
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "out", {"--method", "plain", "--layers", "2", "--link"}).code, 0);
  const SafetensorsFolder files(pair.tuned);
  const std::string name = fs::path(files.file_of("model.layers.2.self_attn.q_proj.weight").file()).filename().string();
  int linked = 0;
  const nlohmann::json states = read_json(folder / "out" / "restore.json")["files"];
  for (const std::string& file : files_below(pair.tuned)) {
    const bool same = fs::equivalent(pair.tuned / file, folder / "out" / file);
    EXPECT_EQ(same, file != name) << file;
    EXPECT_EQ(states[file], same ? "linked" : "restored") << file;
    linked += same ? 1 : 0;
  }
  EXPECT_EQ(linked, 3);  // config, index and a shard
  expect_restored(pair.base, pair.tuned, folder / "out",
                  {"model.layers.2.self_attn.q_proj.weight", "model.layers.2.self_attn.k_proj.weight"});
}

TEST(Offline, RecordsDigestsThatCanBeChecked) {
  const Pair& pair = sharded();
  const TmpDir folder;
  ASSERT_EQ(run_restore(pair.base, pair.tuned, folder / "out", {"--method", "plain", "--digests", "files"}).code, 0);
  const nlohmann::json record = read_json(folder / "out" / "restore.json");
  const std::map<std::string, fs::path> folders = {{"base", pair.base}, {"tuned", pair.tuned}, {"out", folder / "out"}};
  for (const auto& [label, path] : folders) {
    const nlohmann::json digests = record["file_sha256"][label];
    EXPECT_EQ(digests.size(), 2u);
    for (const auto& [file, digest] : digests.items()) EXPECT_EQ(digest, file_sha256(path / file)) << label << " " << file;
  }
  EXPECT_EQ(record["tensors"].size(), routing_names(pair.base).size());
  EXPECT_EQ(record["sha256"]["base"], record["sha256"]["restored"]);
  EXPECT_NE(record["sha256"]["base"], record["sha256"]["tuned"]);
  EXPECT_EQ(record["method"], "plain");
  EXPECT_EQ(record["layers"].size(), 3u);
}

TEST(OfflineDryRun, PrintsTheTableAndWritesNothing) {
  const Pair& pair = hypenet();
  const TmpDir folder;
  const std::vector<std::string> command = {"qk-restore",  "--base",   pair.base.string(), "--tuned",   pair.tuned.string(),
                                            "--method",    "procrustes", "--dry-run",       "--out", (folder / "out").string(),
                                            "--html",      (folder / "moved.html").string()};
  const Outcome outcome = run_program(command);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(files_below(folder.path()), std::vector<std::string>{"moved.html"});
  const std::vector<std::string> lines = lines_of(outcome.out);
  ASSERT_EQ(lines.size(), 6u) << outcome.out;  // head, 4 layers, what the columns are
  const NamedTensors base = read_tensors(pair.base), tuned = read_tensors(pair.tuned);
  const std::vector<std::string> names = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                          "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  for (int layer = 0; layer < 4; ++layer) {
    std::istringstream words(lines[layer + 1]);
    int number = -1;
    std::string kind;
    words >> number >> kind;
    EXPECT_EQ(number, layer);
    EXPECT_EQ(kind, layer % 2 == 1 ? "softmax" : "linear");
    for (const std::string& name : names) {
      const std::string full = "model.layers." + std::to_string(layer) + "." + name + ".weight";
      const at::Tensor from = base.at(full).to(at::kDouble), to = tuned.at(full).to(at::kDouble);
      double shown = 0;
      words >> shown;
      EXPECT_NEAR(shown, ((to - from).norm() / from.norm()).item<double>(), 0.01 * shown) << full;
      EXPECT_GT(shown, 0);
    }
    double rotation = 0, before = 0, after = 0;
    EXPECT_EQ(static_cast<bool>(words >> rotation >> before >> after), layer % 2 == 1);
    EXPECT_EQ(rotation > 0 && after > 0 && after < before, layer % 2 == 1) << lines[layer + 1];
  }
  const std::string page = read_file(folder / "moved.html");
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("http"), std::string::npos);
  size_t bars = 0;
  for (size_t at = page.find("<rect"); at != std::string::npos; at = page.find("<rect", at + 1)) ++bars;
  EXPECT_EQ(bars, 4u * 7u);
}

}  // namespace
}  // namespace qkr::test
