// What qk-restore says of a plain restore, which it makes without the restore library, is what the library says.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "tests/e2e/offline_models.h"
#include "tests/support/fixtures.h"
#include "trainer/apps/offline_compare.h"
#include "trainer/core/digest.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/architecture.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/selection.h"

namespace qkr::test {
namespace {

std::vector<MixerLayer> mixers(const fs::path& model) {
  return mixer_layers(parse_architecture(read_file(model / "config.json"), model.string()));
}

std::string digest_of(const at::Tensor& t) { return sha256_hex({static_cast<const char*>(t.const_data_ptr()), t.nbytes()}); }

// The same model with other numbers in its files.
void write_as(const fs::path& source, const fs::path& target, at::ScalarType type) {
  fs::create_directories(target);
  fs::copy_file(source / "config.json", target / "config.json");
  NamedTensors tensors;
  for (const auto& [name, tensor] : read_tensors(source)) tensors.set(name, tensor.to(type));
  write_safetensors(target / "model.safetensors", tensors);
}

void expect_same_layer(const nlohmann::json& got, const nlohmann::json& want) {
  ASSERT_EQ(got.size(), want.size()) << got << "\n" << want;
  for (const auto& [key, value] : want.items()) {
    if (value.is_number_float()) {
      EXPECT_NEAR(got[key].get<double>(), value.get<double>(), 1e-12 * std::abs(value.get<double>())) << key;
    } else {
      EXPECT_EQ(got[key], value) << key;
    }
  }
}

struct Choice {
  std::string model, method, layers, parts;
  at::ScalarType type;
  std::vector<std::string> flags = {};
};

class OfflinePlainReport : public ::testing::TestWithParam<Choice> {};

TEST_P(OfflinePlainReport, IsTheLibrarysToTheLastTensor) {
  const Choice& c = GetParam();
  const TmpDir folder;
  write_tuned(data_model(c.model), folder / "moved");
  write_as(data_model(c.model), folder / "base", c.type);
  write_as(folder / "moved", folder / "tuned", c.type);
  std::vector<std::string> flags = {"--method", c.method, "--layers", c.layers, "--parts", c.parts};
  flags.insert(flags.end(), c.flags.begin(), c.flags.end());
  const Outcome outcome = run_restore(folder / "base", folder / "tuned", folder / "out", flags);
  ASSERT_EQ(outcome.code, 0) << outcome.err;

  RestoreConfigSection section;
  section.method = c.method;
  section.layers = {c.layers, {}};
  section.parts = c.parts;
  section.biases = std::find(c.flags.begin(), c.flags.end(), "--keep-biases") == c.flags.end();
  section.qk_norm = std::find(c.flags.begin(), c.flags.end(), "--qk-norm") != c.flags.end();
  const NamedTensors base = read_tensors(folder / "base"), tuned = read_tensors(folder / "tuned");
  NamedTensors expected = read_tensors(folder / "tuned");
  const nlohmann::json report = to_json(restore(expected, take_snapshot(base, layers_to_keep(mixers(folder / "base"), section)), section));
  const nlohmann::json record = read_json(folder / "out" / "restore.json");
  ASSERT_EQ(record["layers"].size(), report["layers"].size());
  size_t written = 0;
  for (size_t i = 0; i < report["layers"].size(); ++i) {
    const nlohmann::json want = report["layers"][i];
    expect_same_layer(record["layers"][i], want);
    written += want["written"].size();
    for (const std::string name : want["written"]) {
      const nlohmann::json digests = record["tensors"][name];
      EXPECT_EQ(digests["base"], digest_of(base.at(name))) << name;
      EXPECT_EQ(digests["tuned"], digest_of(tuned.at(name))) << name;
      EXPECT_EQ(digests["restored"], digest_of(expected.at(name))) << name;
    }
  }
  EXPECT_GT(written, 0u);
  EXPECT_EQ(record["tensors"].size(), written);
  for (const auto& [name, tensor] : read_tensors(folder / "out")) EXPECT_TRUE(at::equal(tensor, expected.at(name))) << name;
}

INSTANTIATE_TEST_SUITE_P(, OfflinePlainReport,
                         ::testing::Values(Choice{"hypenet-tiny", "plain", "all", "mixer", at::kBFloat16},
                                           Choice{"hypenet-tiny", "plain", "softmax", "norms", at::kHalf},
                                           Choice{"hypenet-gqa-untied", "qkv", "all", "qk", at::kDouble},
                                           Choice{"qwen2-tiny", "q", "all", "qk", at::kFloat, {"--keep-biases"}},
                                           Choice{"qwen3-tiny", "k", "softmax", "qk", at::kBFloat16, {"--qk-norm"}}),
                         [](const auto& choice) {
                           std::string name = choice.param.model + "_" + choice.param.method + "_" + choice.param.parts;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

double squares(const at::Tensor& t) { return t.to(at::kDouble).square().sum().item<double>(); }

TEST(OfflineCompare, SumsAndDigestsEveryElementOfEveryDtype) {
  at::manual_seed(1);
  const TmpDir folder;
  NamedTensors base, tuned;
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    for (const int64_t count : {1, 7, 200003}) {  // the last is more than a piece, and no multiple of anything
      const std::string name = std::string(at::toString(type)) + std::to_string(count);
      const at::Tensor from = at::randn({count}), to = from + 0.1 * at::randn({count});
      base.set(name, from.to(type));
      tuned.set(name, to.to(type));
    }
  }
  write_safetensors(folder / "base.safetensors", base);
  write_safetensors(folder / "tuned.safetensors", tuned);
  const ModelSource any = ModelSource::read(data_model("llama-tiny").string(), "checkpoint");
  const ModelPair pair{any, any, SafetensorsFolder(folder / "base.safetensors"), SafetensorsFolder(folder / "tuned.safetensors"), {}};
  for (const auto& [name, to] : tuned) {
    const at::Tensor from = base.at(name);
    const TensorComparison seen = compare_tensor(pair, name, true);
    const double moved = squares(to.to(at::kDouble) - from.to(at::kDouble));
    EXPECT_NEAR(seen.sums.moved, moved, 1e-12 * moved) << name;
    EXPECT_NEAR(seen.sums.base, squares(from), 1e-12 * squares(from)) << name;
    EXPECT_NEAR(seen.sums.tuned, squares(to), 1e-12 * squares(to)) << name;
    EXPECT_EQ(seen.base_sha256, digest_of(from)) << name;
    EXPECT_EQ(seen.tuned_sha256, digest_of(to)) << name;
  }
}

// The files are copied in the order of their names while the weights are compared; this one keeps the model's waiting.
TEST(OfflineCopy, TakesWhatIsRestoredIntoAFileThatIsCopiedLate) {
  const TmpDir folder;
  write_tuned(data_model("llama-tiny"), folder / "tuned");
  {
    std::ofstream ballast(folder / "tuned" / "ballast.bin", std::ios::binary);
    const std::string piece(1 << 20, 'b');
    for (int i = 0; i < 400; ++i) ballast << piece;
  }
  const Outcome outcome = run_restore(data_model("llama-tiny"), folder / "tuned", folder / "out", {"--method", "plain"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const NamedTensors base = read_tensors(data_model("llama-tiny"));
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  EXPECT_TRUE(at::equal(read_tensors(folder / "out").at(name), base.at(name)));
  EXPECT_EQ(fs::file_size(folder / "out" / "ballast.bin"), fs::file_size(folder / "tuned" / "ballast.bin"));
}

}  // namespace
}  // namespace qkr::test
