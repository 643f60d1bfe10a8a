// Which tensors a configuration restores, and every refusal; lerp and the controls over real tensors.
#include "trainer/restore/selection.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/restore/support.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"
#include "trainer/restore/candidates.h"
#include "trainer/restore/lerp.h"
#include "trainer/restore/restore.h"

namespace qkr {
namespace {

using namespace test;  // NOLINT: the whole of a test's vocabulary
using at::Tensor;
using Names = std::set<std::string>;

RestoreConfigSection section(const std::string& method, const std::string& parts = "qk", const std::string& layers = "softmax") {
  RestoreConfigSection s;
  s.method = method;
  s.parts = parts;
  s.layers.word = layers;
  return s;
}

RestoreConfigSection numbered(std::vector<int64_t> layers) {
  RestoreConfigSection s = section("plain", "qk", "");
  s.layers.list = std::move(layers);
  return s;
}

Names written(const RestoreReport& report) {
  Names names;
  for (const LayerReport& layer : report.layers) names.insert(layer.written.begin(), layer.written.end());
  return names;
}

// "2 q_proj.weight": the layer and the tensor's own name.
Names short_names(const Names& names) {
  Names out;
  for (const std::string& name : names) out.insert(name.substr(13, 1) + " " + name.substr(25));
  return out;
}

Names selected(const RestoreConfigSection& s) {
  Names names;
  for (const MixerLayer& layer : all_layers()) {
    if (!selects_layer(layer, s)) continue;
    for (const MixerTensor& tensor : selected_tensors(layer, s)) names.insert(tensor.name);
  }
  return short_names(names);
}

TEST(Selection, PartsChooseTensors) {
  const auto of_two = [](const std::string& method, const std::string& parts) {
    RestoreConfigSection s = section(method, parts, "");
    s.layers.list = {2};
    return selected(s);
  };
  const Names q = {"2 q_proj.weight", "2 q_proj.bias"}, k = {"2 k_proj.weight", "2 k_proj.bias"};
  Names qk = q, qkv;
  qk.insert(k.begin(), k.end());
  qkv = qk;
  qkv.insert({"2 v_proj.weight", "2 v_proj.bias"});
  EXPECT_EQ(of_two("plain", "qk"), qk);
  EXPECT_EQ(of_two("plain", "q"), q);
  EXPECT_EQ(of_two("q", "qk"), q);
  EXPECT_EQ(of_two("k", "qk"), k);
  EXPECT_EQ(of_two("qkv", "qk"), qkv);
  EXPECT_EQ(of_two("plain", "v"), (Names{"2 v_proj.weight", "2 v_proj.bias"}));
  EXPECT_EQ(of_two("plain", "o"), Names{"2 o_proj.weight"});
  EXPECT_EQ(of_two("plain", "gates"), Names{"2 o_gate.weight"});
  EXPECT_EQ(of_two("plain", "norms"), (Names{"2 q_norm.weight", "2 k_norm.weight", "2 o_norm.weight"}));
  EXPECT_EQ(of_two("plain", "mixer").size(), 11u);
}

TEST(Selection, FlagsChooseBiasesAndTheGainsOfThePartsChosen) {
  RestoreConfigSection s = numbered({0});
  s.parts = "q";
  s.qk_norm = true;
  EXPECT_EQ(selected(s), (Names{"0 q_proj.weight", "0 q_proj.bias", "0 q_norm.weight"}));
  s.biases = false;
  EXPECT_EQ(selected(s), (Names{"0 q_proj.weight", "0 q_norm.weight"}));
  s.parts = "mixer";
  EXPECT_EQ(selected(s).count("0 v_proj.bias"), 0u);
  EXPECT_EQ(selected(s).size(), 8u);
}

TEST(Selection, LayersAreChosenByTypeOrNumber) {
  const auto layers = [](const RestoreConfigSection& s) {
    std::vector<int64_t> numbers;
    for (const MixerLayer& layer : all_layers()) {
      if (selects_layer(layer, s)) numbers.push_back(layer.layer);
    }
    return numbers;
  };
  EXPECT_EQ(layers(section("plain")), (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(layers(section("plain", "qk", "linear")), std::vector<int64_t>{1});
  EXPECT_EQ(layers(section("plain", "qk", "all")), (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(layers(numbered({2, 1})), (std::vector<int64_t>{1, 2}));
}

TEST(Selection, TheSnapshotHoldsQAndKOfSoftmaxLayersAndWhatIsSelected) {
  const auto kept = [](const RestoreConfigSection& s) {
    Names names;
    for (const MixerLayer& layer : layers_to_keep(all_layers(), s)) {
      for (const MixerTensor& tensor : layer.tensors) names.insert(tensor.name);
    }
    return short_names(names);
  };
  EXPECT_EQ(kept(section("none")).size(), 12u);
  EXPECT_EQ(kept(section("plain")), kept(section("none")));
  EXPECT_EQ(kept(section("qkv")).size(), 16u);
  EXPECT_EQ(kept(section("qkv")).count("0 v_proj.bias"), 1u);
  EXPECT_EQ(kept(section("plain", "o", "linear")).count("1 o_proj.weight"), 1u);
  EXPECT_EQ(kept(section("plain", "o", "linear")).count("2 o_proj.weight"), 0u);
  EXPECT_EQ(kept(section("plain", "mixer", "all")).size(), 33u);
}

RestoreConfigSection automatic(std::vector<std::string> candidates, const std::string& parts = "qk") {
  RestoreConfigSection s = section("auto", parts);
  s.candidates = std::move(candidates);
  return s;
}

TEST(Candidates, CarryTheirOwnDial) {
  RestoreConfigSection s = section("auto", "qk", "all");
  const RestoreConfigSection turned = candidate_section(s, "procrustes:0.25"), ridged = candidate_section(s, "qk-pro-bilinear:1e-3");
  EXPECT_EQ(turned.method, "procrustes");
  EXPECT_EQ(turned.anchor, 0.25);
  EXPECT_EQ(turned.layers.word, "all");
  EXPECT_EQ(ridged.method, "qk-pro-bilinear");
  EXPECT_EQ(ridged.ridge, 1e-3);
  EXPECT_EQ(candidate_section(s, "lerp:0.5").method, "lerp:0.5");
  EXPECT_EQ(candidate_section(s, "procrustes").anchor, s.anchor);
  EXPECT_EQ(QKR_MESSAGE_OF(candidate_section(s, "procrustes:x")), "qk_restore.candidates: must have a number behind the colon, got procrustes:x");
  EXPECT_EQ(possible_sections(s).size(), s.candidates.size());
  EXPECT_EQ(possible_sections(section("plain")).size(), 1u);
}

TEST(Candidates, TheSnapshotHoldsWhatAnyOfThemNeeds) {
  const auto kept = [](const RestoreConfigSection& s) {
    Names names;
    for (const MixerLayer& layer : layers_to_keep(all_layers(), s)) {
      for (const MixerTensor& tensor : layer.tensors) names.insert(tensor.name);
    }
    return short_names(names);
  };
  EXPECT_EQ(kept(automatic({"none", "plain"})), kept(section("plain")));
  EXPECT_EQ(kept(automatic({"none", "plain", "qkv"})), kept(section("qkv")));
  EXPECT_EQ(kept(automatic({"none", "plain"}, "mixer")), kept(section("plain", "mixer")));
}

// One that cannot work is told by its reason and stops nothing; if none is left there is nothing to choose from.
TEST(Candidates, RefusalsAreReasonsUntilAllAreRefused) {
  at::manual_seed(26);
  const Snapshot snapshot = take_snapshot(random_weights(at::kFloat, at::kCPU), all_layers());
  RestoreConfigSection s = automatic({"none", "qk-pro", "plain"}, "v");
  EXPECT_EQ(restore_refusal(snapshot, candidate_section(s, "qk-pro")), "qk_restore.parts must be qk where the method is qk-pro, got v");
  EXPECT_EQ(restore_refusal(snapshot, candidate_section(s, "plain")), "");
  EXPECT_EQ(QKR_MESSAGE_OF(check_restorable(snapshot, s)), "");
  s.candidates = {"none", "qk-pro"};
  EXPECT_EQ(QKR_MESSAGE_OF(check_restorable(snapshot, s)), "qk_restore.parts must be qk where the method is qk-pro, got v");
  s = automatic({"none", "plain"});
  s.layers = {"", {7}};
  EXPECT_EQ(QKR_MESSAGE_OF(check_selection(all_layers(), s, "the model")), "qk_restore.layers: must name layers of the model, got 7");
  EXPECT_EQ(restore_refusal(snapshot, section("procrustes", "norms")),
            "qk_restore.parts must hold a weight that reads the layer's input where the method is procrustes, got norms");
  NamedTensors weights = random_weights(at::kFloat, at::kCPU);
  EXPECT_EQ(QKR_MESSAGE_OF(restore(weights, snapshot, automatic({"none", "plain"}))),
            "qk_restore.method auto must have come to one of its candidates before anything can be restored, got auto");
}

TEST(Selection, AStoredSnapshotServesLessButNotMore) {
  std::vector<std::string> names;
  for (const MixerLayer& layer : layers_to_keep(all_layers(), section("plain"))) {
    for (const MixerTensor& tensor : layer.tensors) names.push_back(tensor.name);
  }
  const auto stored = layers_stored(all_layers(), section("q"), names, "s.safetensors");
  ASSERT_EQ(stored.size(), 2u);
  EXPECT_EQ(stored[1].tensors.size(), 6u);
  EXPECT_EQ(QKR_MESSAGE_OF(layers_stored(all_layers(), section("qkv"), names, "s.safetensors")),
            "s.safetensors: must hold what qk_restore selects, got no model.layers.0.self_attn.v_proj.weight, which the first start "
            "did not keep");
}

TEST(Selection, RefusesWithTheReason) {
  const auto message = [](const std::vector<MixerLayer>& layers, const RestoreConfigSection& s) {
    return QKR_MESSAGE_OF(check_selection(layers, s, "the model"));
  };
  EXPECT_EQ(message(all_layers(), numbered({0, 7})), "qk_restore.layers: must name layers of the model, got 7");
  EXPECT_EQ(message(softmax_layers(), section("plain", "qk", "linear")), "qk_restore.layers: the model must have linear layers, got none");
  EXPECT_EQ(message(softmax_layers(), section("qkv")),
            "qk_restore.parts: qkv must be in every layer of the model, got no v weight in layer 0");
  EXPECT_EQ(message(softmax_layers(), section("plain", "mixer")),
            "qk_restore.parts: mixer must be in every layer of the model, got no v weight in layer 0");
  EXPECT_EQ(message(softmax_layers(), section("plain", "gates")),
            "qk_restore.parts: a selected layer of the model must have gates, got none");
  EXPECT_EQ(message(softmax_layers(), section("none", "gates")), "");
}

class Selected : public DeviceTest {};

// Every method over every layer set and part: what is selected is written, and nothing else moves.
TEST_P(Selected, WritesWhatIsSelectedAndNothingElse) {
  at::manual_seed(21);
  const Scene s = scene(at::kFloat, device(), all_layers());
  for (const std::string method : {"plain", "lerp:0.5", "procrustes", "q", "k", "qkv"}) {
    for (const std::string parts : {"qk", "q", "v", "o", "gates", "norms", "mixer"}) {
      for (const std::string layers : {"softmax", "linear", "all"}) {
        const RestoreConfigSection config = section(method, parts, layers);
        if (method == "procrustes" && (parts == "o" || parts == "norms")) continue;  // refused by the configuration
        NamedTensors weights = clone(s.post);
        const RestoreReport report = restore(weights, s.snapshot, config);
        Names moved;
        for (const auto& [name, tensor] : weights) {
          if (!same_bytes(tensor, s.post.at(name))) moved.insert(name);
          EXPECT_TRUE(method != "plain" || moved.count(name) == 0 || same_bytes(tensor, s.pre.at(name))) << name;
        }
        EXPECT_EQ(short_names(moved), selected(config)) << method << " " << parts << " " << layers;
        EXPECT_EQ(moved, written(report));
        EXPECT_EQ(report.layers.size(), layers == "all" ? 3u : layers == "linear" ? 1u : 2u);
        EXPECT_EQ(report.layers[0].softmax, layers != "linear");
        EXPECT_GT(report.layers[0].residual_after, 0.005);
      }
    }
  }
}

TEST_P(Selected, LerpZeroIsPlainAndOneIsTunedByteForByte) {
  at::manual_seed(22);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const Scene s = scene(dtype, device(), all_layers());
    NamedTensors zero = clone(s.post), plain = clone(s.post), one = clone(s.post);
    restore(zero, s.snapshot, section("lerp:0", "mixer", "all"));
    restore(plain, s.snapshot, section("plain", "mixer", "all"));
    restore(one, s.snapshot, section("lerp:1.0", "mixer", "all"));
    for (const auto& [name, tensor] : s.post) {
      EXPECT_TRUE(same_bytes(zero.at(name), plain.at(name))) << name;
      EXPECT_TRUE(same_bytes(one.at(name), tensor)) << name;
    }
  }
}

TEST_P(Selected, LerpRoundsOnceAndKeepsWhatDidNotMove) {
  at::manual_seed(23);
  const Tensor pre = at::randn({64, 32}, at::kDouble).to(at::kBFloat16), far = at::randn({64, 32}, at::kDouble).to(at::kBFloat16);
  const Tensor post = at::where(at::rand({64, 32}) < 0.5, pre, far);
  pre.view(-1)[0] = -0.0;
  post.view(-1)[0] = -0.0;
  const Tensor got = lerp_weights(here(pre), here(post), 0.3).cpu();
  const Tensor truth = pre.to(at::kDouble) + 0.3 * (post.to(at::kDouble) - pre.to(at::kDouble));
  // no bf16 is nearer to the truth than what came out
  const Tensor error = (got.to(at::kDouble) - truth).abs();
  for (const int step : {-1, 1}) {
    const Tensor other = got.view(at::kShort).add(step).view(at::kBFloat16).to(at::kDouble);
    EXPECT_TRUE((error <= (other - truth).abs()).logical_or(got == 0).all().item<bool>());
  }
  const Tensor still = pre == post;
  EXPECT_TRUE(same_bytes(got.index({still}), pre.index({still})));
  EXPECT_TRUE(same_bytes(lerp_weights(here(pre), here(pre), 0.3), pre));
}

TEST_P(Selected, ReportSaysWhatWasDone) {
  at::manual_seed(24);
  const Scene s = scene(at::kFloat, device(), all_layers());
  NamedTensors weights = clone(s.post);
  const nlohmann::json json = to_json(restore(weights, s.snapshot, section("lerp:0.25", "v", "all")));
  EXPECT_EQ(json.at("method"), "lerp:0.25");
  EXPECT_EQ(json.at("blend"), 0.25);
  EXPECT_EQ(json.at("parts"), "v");
  EXPECT_EQ(json.at("selected_layers"), "all");
  const nlohmann::json& row = json.at("layers")[1];
  EXPECT_EQ(row.at("type"), "linear");
  for (const char* key : {"q_change", "k_change", "v_change", "o_change", "gates_change", "norms_change"}) {
    EXPECT_NEAR(row.at(key).get<double>(), 0.05, 0.03) << key;
  }
  // a quarter of the way is kept, so three quarters of the distance are taken back
  EXPECT_NEAR(row.at("residual_after").get<double>(), 0.75 * row.at("residual_before").get<double>(), 1e-6);
  RestoreConfigSection list = numbered({1});
  EXPECT_EQ(to_json(restore(weights, s.snapshot, list)).at("selected_layers"), nlohmann::json({1}));
}

TEST(Blend, IsAShare) {
  EXPECT_EQ(blend_of("lerp:0.25"), 0.25);
  EXPECT_EQ(blend_of("plain"), std::nullopt);
  for (const std::string bad : {"lerp:", "lerp:1.5", "lerp:-1", "lerp:x", "lerp:0.5x", "lerp:nan"}) {
    EXPECT_EQ(QKR_MESSAGE_OF(blend_of(bad)), "qk_restore.method: lerp:A must have a number A from 0 to 1, got " + bad);
  }
}

QKR_ON_EVERY_DEVICE(Selected);

}  // namespace
}  // namespace qkr
