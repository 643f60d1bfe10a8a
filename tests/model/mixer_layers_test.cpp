// What a restore is told of a model's mixers: kinds by config.json, every weight with its part.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/model/architecture.h"

namespace qkr {
namespace {

Architecture tiny(const std::string& name) {
  const auto file = test::source_dir() / "tests" / "data" / "models" / name / "model" / "config.json";
  return parse_architecture(test::read_file(file), "config.json");
}

TEST(MixerLayers, KindsComeFromTheConfigAndNotFromNames) {
  const std::vector<MixerLayer> layers = mixer_layers(tiny("hypenet-tiny"));
  const Architecture a = tiny("hypenet-tiny");
  ASSERT_EQ(layers.size(), a.layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".self_attn.";
    EXPECT_EQ(layers[i].layer, static_cast<int64_t>(i));
    EXPECT_EQ(layers[i].softmax, a.layers[i].mixer == MixerKind::kSoftmax);
    EXPECT_EQ(layers[i].rope, !layers[i].softmax);  // HypeNet: softmax layers do not rotate, Lightning ones do
    EXPECT_EQ(layers[i].name_of(MixerPart::kQ, MixerRole::kWeight), prefix + "q_proj.weight");
    EXPECT_EQ(layers[i].name_of(MixerPart::kK, MixerRole::kGain), prefix + "k_norm.weight");
    EXPECT_EQ(layers[i].name_of(MixerPart::kGate, MixerRole::kWeight), prefix + (layers[i].softmax ? "o_gate.weight" : "z_proj.weight"));
    EXPECT_EQ(layers[i].name_of(MixerPart::kO, MixerRole::kGain), layers[i].softmax ? "" : prefix + "o_norm.weight");
  }
}

TEST(MixerLayers, HoldEveryWeightOfEveryMixerOnce) {
  for (const char* name : {"hypenet-tiny", "hypenet-gqa-untied", "qwen2-tiny"}) {
    const Architecture a = tiny(name);
    std::set<std::string> want, got;
    std::map<std::string, std::vector<int64_t>> shapes;
    for (const WeightSpec& spec : weight_specs(a)) {
      shapes[spec.name] = spec.shape;
      if (spec.name.find(".self_attn.") != std::string::npos) want.insert(spec.name);
    }
    for (const MixerLayer& layer : mixer_layers(a)) {
      for (const MixerTensor& tensor : layer.tensors) {
        EXPECT_TRUE(got.insert(tensor.name).second) << tensor.name;
        EXPECT_EQ(tensor.role == MixerRole::kWeight, shapes[tensor.name].size() == 2u) << tensor.name;
        EXPECT_EQ(tensor.role == MixerRole::kBias, tensor.name.find(".bias") != std::string::npos) << tensor.name;
      }
      EXPECT_EQ(shapes[layer.name_of(MixerPart::kQ, MixerRole::kWeight)][0], layer.heads * layer.head_dim);
      EXPECT_EQ(shapes[layer.name_of(MixerPart::kK, MixerRole::kWeight)][0], layer.kv_heads * layer.head_dim);
    }
    EXPECT_EQ(got, want);
  }
  const std::vector<MixerLayer> qwen2 = mixer_layers(tiny("qwen2-tiny"));
  EXPECT_EQ(qwen2[0].name_of(MixerPart::kV, MixerRole::kBias), "model.layers.0.self_attn.v_proj.bias");
  EXPECT_EQ(qwen2[0].name_of(MixerPart::kQ, MixerRole::kGain), "");
  EXPECT_TRUE(qwen2[0].softmax && qwen2[0].rope);
}

}  // namespace
}  // namespace qkr
