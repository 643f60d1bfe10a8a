// train.freeze in a whole run of the small hybrid (softmax layers 1 and 3 of 4, tied): what is said, kept, restored and resumed.
#include <gtest/gtest.h>

#include "tests/e2e/small_run.h"
#include "tests/support/device.h"
#include "trainer/core/pattern.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {
namespace {

const std::vector<std::string> kPatterns = {"model.embed_tokens.*", "model.layers.[01].*"};
const char kLowerHalf[] = R"(train.freeze=["model.embed_tokens.*", "model.layers.[01].*"])";

Outcome frozen(const TmpDir& folder, std::vector<std::string> more) { return run_program(small_command(folder, more)); }

void expect_said(const Outcome& outcome, const std::string& text) {
  EXPECT_NE((outcome.out + outcome.err).find(text), std::string::npos) << "wanted: " << text << "\ngot: " << outcome.out << outcome.err;
}

TEST(FrozenRun, KeepsWhatItSaysAndRestoresTheRest) {
  TmpDir folder;
  const Outcome run = frozen(folder, {"--qk-restore", "procrustes", "--set", "save_sft_model=true", kLowerHalf});
  ASSERT_EQ(run.code, 0) << run.err;
  const nlohmann::json summary = read_json(folder / "out" / "summary.json");
  EXPECT_LT(summary["trained_parameters"], summary["parameters"]);
  expect_said(run, "freeze   ");
  expect_said(run, " of 1,017,472 weights are trained (");
  expect_said(run, "frozen: model.embed_tokens.*, model.layers.[01].*, and with the embedding the LM head, which is tied to it; no gradient below layer 2\n");
  expect_said(run, "restore  2 of the 4 tensors that procrustes puts back are frozen and stay as they are\n");
  expect_said(run, " a frozen one), activations apart");
  expect_said(run, "  layer 1  not moved by SFT, so there was nothing to put back\n");
  const SafetensorsFile base(base_model() / "model.safetensors"), tuned(folder / "out" / "model-sft" / "model.safetensors"),
      restored(folder / "out" / "model" / "model.safetensors");
  int64_t trained = 0;
  for (const std::string& name : base.names()) {
    const bool kept = matches_any(kPatterns, name);
    trained += kept ? 0 : base.tensor(name).numel();
    EXPECT_EQ(same_bytes(base.tensor(name), tuned.tensor(name)), kept) << name;
    const bool goes_back = name == "model.layers.3.self_attn.q_proj.weight" || name == "model.layers.3.self_attn.k_proj.weight";
    EXPECT_EQ(same_bytes(tuned.tensor(name), restored.tensor(name)), !goes_back) << name;
  }
  EXPECT_EQ(summary["trained_parameters"], trained);
  const nlohmann::json layers = read_json(folder / "out" / "restore.json")["layers"];
  EXPECT_EQ(layers[0]["unmoved"], true);
  EXPECT_FALSE(layers[1].contains("unmoved"));

  const Outcome other = frozen(folder, {"--qk-restore", "procrustes", "--resume", "--set", "save_sft_model=true", R"(train.freeze=["model.norm.*"])"});
  EXPECT_EQ(other.code, 2);
  expect_said(other, R"(identity.train.freeze must be '["model.norm.*"]' as in this run, got '["model.embed_tokens.*", )");
}

TEST(FrozenRun, AutoFindsNothingToPutBack) {
  TmpDir folder;
  std::vector<std::string> more = with_probe();
  more.insert(more.end(), {R"(train.freeze=["*.self_attn.[qk]_proj.*"])", "qk_restore.held_out=2", "--qk-restore", "auto"});
  const Outcome run = frozen(folder, more);
  ASSERT_EQ(run.code, 0) << run.err;
  expect_said(run, "restore  4 of the 4 tensors that auto puts back are frozen: it will find nothing to put back\n");
  const nlohmann::json choice = read_json(folder / "out" / "restore.json")["auto"];
  EXPECT_EQ(choice["chosen"], "none");
  for (const nlohmann::json& candidate : choice["candidates"]) EXPECT_EQ(candidate["held_out_loss"], choice["candidates"][0]["held_out_loss"]);
}

TEST(FrozenRun, IsRefusedBeforeItBegins) {
  TmpDir folder;
  const auto refusal = [&](const std::string& method, const std::string& freeze) {
    const Outcome run = frozen(folder, {"--dry-run", "--qk-restore", method, "--set", "train.freeze=" + freeze});
    EXPECT_EQ(run.code, 2) << run.out;
    return run.err;
  };
  EXPECT_NE(refusal("plain", "[model.layer.0.*]").find("train.freeze: 'model.layer.0.*' must match a weight of the model, got none; did you mean model.layers.0."),
            std::string::npos);
  EXPECT_NE(refusal("none", "['*']").find("train.freeze: must leave a weight to train, got [*], which keep all "), std::string::npos);
  const std::string together = refusal("procrustes", "['*.3.self_attn.q_proj.*']");
  EXPECT_NE(together.find("train.freeze: must keep all or none of what the restore procrustes turns together, got model.layers.3.self_attn.q_proj.weight "
                          "without model.layers.3.self_attn.k_proj.weight"), std::string::npos) << together;
  EXPECT_EQ(frozen(folder, {"--dry-run", "--qk-restore", "plain", "--set", "train.freeze=['*.3.self_attn.q_proj.*']"}).code, 0);
  EXPECT_FALSE(std::filesystem::exists(folder / "out"));
}

}  // namespace
}  // namespace qkr::test
