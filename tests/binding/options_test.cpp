// Options and layers as JSON, the other way a section of the configuration comes in. The classes over them: tests/python.
#include "trainer/binding/options.h"

#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

TEST(BindingOptions, KeysOfTheConfiguration) {
  const RestoreConfigSection section = restore_options(R"({"method": "procrustes", "anchor": 1e-05, "layers": [3, 7], "parts": "v", "ridge": null})");
  EXPECT_EQ(section.method, "procrustes");
  EXPECT_EQ(section.anchor, 1e-5);
  EXPECT_EQ(section.layers.list, (std::vector<int64_t>{3, 7}));
  EXPECT_FALSE(section.ridge.has_value());
  EXPECT_EQ(probe_options(R"({"lengths": [256], "tasks": ["vt"]})").lengths, (std::vector<int64_t>{256}));
}

TEST(BindingOptions, ErrorsAreInTheWordsOfAnOption) {
  EXPECT_EQ(QKR_MESSAGE_OF(restore_options(R"({"anchor": -1})")), "anchor: must be >= 0, got '-1'");
  EXPECT_NE(QKR_MESSAGE_OF(restore_options(R"({"ancor": 1})")).find("ancor: unknown key; did you mean"), std::string::npos);
  EXPECT_EQ(QKR_MESSAGE_OF(restore_options(R"({"ancor": 1})")).find("--set"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(restore_options("[]")).find("options: must be a JSON object"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(restore_options("{")).find("options: must be a JSON object"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(restore_options(R"({"method": "auto"})")).find("got auto, which needs a run"), std::string::npos);
}

const char* const kLayers =
    R"([{"head_dim":16,"heads":4,"kv_heads":2,"layer":3,"qk_activation":false,"rope":true,"softmax":true,)"
    R"("tensors":[{"name":"a.q_proj.weight","part":"q","role":"weight"},{"name":"a.k_norm.weight","part":"k","role":"gain"}]}])";

TEST(BindingLayers, ThereAndBack) {
  const std::vector<MixerLayer> layers = layers_from_json(kLayers);
  ASSERT_EQ(layers.size(), 1U);
  EXPECT_EQ(layers[0].layer, 3);
  EXPECT_EQ(layers[0].kv_heads, 2);
  EXPECT_EQ(layers[0].name_of(MixerPart::kK, MixerRole::kGain), "a.k_norm.weight");
  EXPECT_EQ(layers_to_json(layers), kLayers);
}

TEST(BindingLayers, RefusesWhatItDoesNotKnow) {
  const auto with = [](const std::string& from, const std::string& to) {
    std::string text = kLayers;
    return text.replace(text.find(from), from.size(), to);
  };
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json(with("\"part\":\"q\"", "\"part\":\"x\""))).find("layers: part: must be one of q, k, v, o"),
            std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json(with("\"heads\":4", "\"heads\":\"4\""))).find("layers: heads: must be there"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json(with("\"heads\":4", "\"heads\":5"))).find("a multiple of kv_heads, got 5 and 2"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json(with("\"layer\":3,", ""))).find("layers: layer: must be there, of its type, got nothing"),
            std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json(with("\"layer\":3,", "\"layer\":3,\"more\":1,"))).find("must have 8 keys"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(layers_from_json("{}")).find("must be a JSON list"), std::string::npos);
}

}  // namespace
}  // namespace qkr
