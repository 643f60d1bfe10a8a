// What a valid config.json means: every family's defaults, and the sizes of the released models.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/support.h"

namespace qkr {
namespace {

using test::hypenet_config;
using test::Json;
using test::of_type;
using test::parsed;
using test::with;

TEST(Defaults, Llama) {
  const Architecture a = parsed(of_type("llama"));
  EXPECT_EQ(a.family, Family::kLlama);
  EXPECT_EQ(a.vocab_size, 32000);
  EXPECT_EQ(a.hidden_size, 4096);
  EXPECT_EQ(a.intermediate_size, 11008);
  EXPECT_EQ(a.max_position, 2048);
  EXPECT_EQ(a.layers.size(), 32u);
  EXPECT_EQ(a.rms_norm_eps, 1e-6);
  EXPECT_EQ(a.initializer_range, 0.02);
  EXPECT_EQ(a.rope_theta, 10000);
  EXPECT_FALSE(a.tied);
  EXPECT_FALSE(a.mlp_bias);
  const SoftmaxShape& s = a.layers[31].softmax;
  EXPECT_EQ(s.heads, 32);
  EXPECT_EQ(s.kv_heads, 32);
  EXPECT_EQ(s.head_dim, 128);
  EXPECT_FALSE(s.qk_norm || s.qkv_bias || s.o_bias || s.output_gate);
  EXPECT_TRUE(s.rope);
  EXPECT_EQ(s.window, 0);
}

TEST(Defaults, Qwen3) {
  const Architecture a = parsed(with(with(of_type("qwen3"), "num_attention_heads", 16), "num_key_value_heads", 8));
  EXPECT_EQ(a.family, Family::kQwen3);
  EXPECT_EQ(a.vocab_size, 151936);
  EXPECT_EQ(a.intermediate_size, 22016);
  EXPECT_EQ(a.max_position, 32768);
  const SoftmaxShape& s = a.layers[0].softmax;
  EXPECT_EQ(s.head_dim, 128);  // the class default, not hidden / heads = 256
  EXPECT_TRUE(s.qk_norm);
  EXPECT_FALSE(s.qkv_bias || s.o_bias);
  const Architecture biased = parsed(with(of_type("qwen3"), "attention_bias", true));
  EXPECT_TRUE(biased.layers[0].softmax.qkv_bias && biased.layers[0].softmax.o_bias);
}

TEST(Defaults, Qwen2) {
  const Architecture a = parsed(with(of_type("qwen2"), "num_attention_heads", 64));
  EXPECT_EQ(a.family, Family::kQwen2);
  EXPECT_EQ(a.layers[0].softmax.kv_heads, 32);
  EXPECT_EQ(a.layers[0].softmax.head_dim, 64);
  EXPECT_TRUE(a.layers[0].softmax.qkv_bias);
  EXPECT_FALSE(a.layers[0].softmax.o_bias || a.layers[0].softmax.qk_norm);
  EXPECT_EQ(parsed(with(of_type("qwen2"), "head_dim", 96)).layers[0].softmax.head_dim, 96);
}

TEST(Defaults, HypeNetOfBothGenerations) {
  for (const char* type : {"hypenet", "hybrid"}) {
    const Architecture a = parsed(of_type(type));
    EXPECT_EQ(a.family, Family::kHypeNet);
    EXPECT_EQ(a.model_type, type);
    EXPECT_EQ(a.vocab_size, 151936);
    EXPECT_EQ(a.intermediate_size, 22016);
    EXPECT_EQ(a.softmax_layers().size(), 32u);  // no mixer_types: all of them attn
    const SoftmaxShape& s = a.layers[0].softmax;
    EXPECT_EQ(s.kv_heads, 32);
    EXPECT_EQ(s.head_dim, 128);
    EXPECT_TRUE(s.rope && s.qk_norm);
    EXPECT_FALSE(s.output_gate || s.qkv_bias || s.o_bias);
    const LightningShape& l = a.layers[0].lightning;
    EXPECT_EQ(l.heads, 32);
    EXPECT_EQ(l.kv_heads, 32);
    EXPECT_EQ(l.head_dim, 128);
    EXPECT_DOUBLE_EQ(l.scale, 1 / std::sqrt(128.0));
    EXPECT_TRUE(l.rope);
    EXPECT_FALSE(l.qk_norm || l.output_norm || l.output_gate || l.bias);
    EXPECT_EQ(a.logits_scaling.kind, LogitsScaling::Kind::kNone);
  }
  EXPECT_DOUBLE_EQ(parsed(with(of_type("hypenet"), "lightning_scale", "1/d")).layers[0].lightning.scale, 1 / 128.0);
  EXPECT_EQ(parsed(with(of_type("hypenet"), "lightning_scale", "none")).layers[0].lightning.scale, 1.0);
  const Json null_dim = with(with(of_type("hypenet"), "head_dim", nullptr), "hidden_size", 2048);
  EXPECT_EQ(parsed(null_dim).layers[0].softmax.head_dim, 64);
}

TEST(Defaults, NullKeyValueHeadsMeanAsManyAsQueries) {
  for (const char* type : {"llama", "qwen2", "qwen3", "hypenet"}) {
    const Json heads = with(of_type(type), "num_attention_heads", 64);
    EXPECT_EQ(parsed(with(heads, "num_key_value_heads", nullptr)).layers[0].softmax.kv_heads, 64) << type;
    EXPECT_EQ(parsed(heads).layers[0].softmax.kv_heads, std::string(type) == "llama" ? 64 : 32) << type;
  }
}

TEST(Keys, EndTokensNumbersAndNames) {
  EXPECT_EQ(parsed(with(of_type("llama"), "eos_token_id", 7)).eos_ids, (std::vector<int64_t>{7}));
  EXPECT_EQ(parsed(with(of_type("llama"), "eos_token_id", {7, 9})).eos_ids, (std::vector<int64_t>{7, 9}));
  EXPECT_TRUE(parsed(of_type("llama")).eos_ids.empty());
  EXPECT_EQ(parsed(with(of_type("llama"), "rms_norm_eps", "1e-05")).rms_norm_eps, 1e-5);
  EXPECT_EQ(parsed(with(of_type("llama"), "rope_theta", 500000)).rope_theta, 5e5);
  EXPECT_STREQ(family_name(Family::kHypeNet), "HypeNet");
  EXPECT_STREQ(family_name(Family::kQwen3), "Qwen3");
}

TEST(Keys, MixerTypesOfBothSpellingsPickTheLayers) {
  Json config = with(of_type("hypenet"), "num_hidden_layers", 4);
  config["mixer_types"] = {"lightning-attn", "attn", "lightning_attn", "attn"};
  const Architecture a = parsed(config);
  EXPECT_EQ(a.softmax_layers(), (std::vector<int64_t>{1, 3}));
  EXPECT_EQ(a.layers[2].mixer, MixerKind::kLightning);
}

TEST(Keys, HarmlessOnesAreKept) {
  Json config = of_type("hybrid");
  for (const char* key : {"loss_fn", "gdn_nh", "kda_anything", "mamba2_d_state", "rope_parameters", "max_window_layers",
                          "torch_dtype", "auto_map", "_attn_implementation_autoset", "transformers_version"}) {
    config[key] = "anything";
  }
  EXPECT_EQ(parsed(config).family, Family::kHypeNet);
  EXPECT_EQ(parsed(with(of_type("llama"), "quantization_config", nullptr)).family, Family::kLlama);
  EXPECT_EQ(parsed(with(of_type("llama"), "pretraining_tp", 1)).family, Family::kLlama);
}

TEST(Windows, SwitchFirstLayerAndTypes) {
  Json config = with(with(of_type("qwen2"), "num_hidden_layers", 4), "sliding_window", 16);
  const auto windows = [](const Json& c) {
    std::vector<int64_t> found;
    for (const Layer& layer : parsed(c).layers) found.push_back(layer.softmax.window);
    return found;
  };
  EXPECT_EQ(windows(config),
            (std::vector<int64_t>{0, 0, 0, 0}));  // released files carry the number with the switch off
  config["use_sliding_window"] = true;
  EXPECT_EQ(windows(config), (std::vector<int64_t>{0, 0, 0, 0}));  // max_window_layers is 28
  config["max_window_layers"] = 2;
  EXPECT_EQ(windows(config), (std::vector<int64_t>{0, 0, 16, 16}));
  config["layer_types"] = {"sliding_attention", "full_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(windows(config), (std::vector<int64_t>{16, 0, 0, 16}));
  config["use_sliding_window"] = false;
  config["layer_types"] = {"full_attention", "full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(windows(config), (std::vector<int64_t>{0, 0, 0, 0}));
}

TEST(Scaling, FormsOfTheLogitsFactor) {
  using Kind = LogitsScaling::Kind;
  const auto scaling = [](const std::string& json) { return parse_logits_scaling(json, "here"); };
  EXPECT_EQ(scaling("null").kind, Kind::kNone);
  EXPECT_EQ(scaling("\"hype 500\"").kind, Kind::kHype);
  EXPECT_EQ(scaling("\"hype 500\"").a, 500);
  EXPECT_EQ(scaling("\"any 600.75\"").a, 600.75);  // the first word is not looked at, officially
  EXPECT_EQ(scaling("\"hype\"").a, 362);
  EXPECT_EQ(scaling("2.5").kind, Kind::kConstant);
  EXPECT_EQ(scaling("2.5").constant, 2.5);
  EXPECT_EQ(parsed(with(of_type("hypenet"), "attn_logits_scaling", "hype 900")).logits_scaling.a, 900);
}

// The tables of released sizes: a count that is one norm off is another model.
TEST(ParameterCount, HypeNet) {
  const Architecture small = parsed(hypenet_config(28, 2048, 6144, 16, {2, 3, 6, 8, 9, 21, 25}));
  EXPECT_EQ(parameter_count(small), 1'926'138'880);
  EXPECT_EQ(weight_specs(small).size(), 359u);
  const Architecture middle = parsed(hypenet_config(36, 2560, 9728, 32, {0, 1, 7, 14, 15, 22, 24, 31, 33}));
  EXPECT_EQ(parameter_count(middle), 4'824'739'328);
  EXPECT_EQ(weight_specs(middle).size(), 461u);
  const Architecture large = parsed(hypenet_config(36, 4096, 12288, 32, {1, 2, 4, 6, 7, 10, 24, 33, 34}));
  EXPECT_EQ(parameter_count(large), 8'851'973'120);
  EXPECT_EQ(weight_specs(large).size(), 461u);
}

TEST(ParameterCount, DenseFamilies) {
  struct Size {
    const char* type;
    int64_t vocab, layers, hidden, inner, heads, kv;
    bool tied;
    int64_t parameters;
  };
  const std::vector<Size> sizes = {{"qwen3", 151936, 28, 1024, 3072, 16, 8, true, 596'049'920},
                                   {"qwen3", 151936, 28, 2048, 6144, 16, 8, true, 1'720'574'976},
                                   {"qwen3", 151936, 36, 2560, 9728, 32, 8, true, 4'022'468'096},
                                   {"qwen3", 151936, 36, 4096, 12288, 32, 8, false, 8'190'735'360},
                                   {"qwen2", 151936, 28, 1536, 8960, 12, 2, true, 1'543'714'304},
                                   {"qwen2", 151936, 36, 2048, 11008, 16, 2, true, 3'085'938'688},
                                   {"llama", 49152, 30, 576, 1536, 9, 3, true, 134'515'008}};
  for (const Size& s : sizes) {
    const Json config = {{"model_type", s.type},          {"vocab_size", s.vocab},
                         {"num_hidden_layers", s.layers}, {"hidden_size", s.hidden},
                         {"intermediate_size", s.inner},  {"num_attention_heads", s.heads},
                         {"num_key_value_heads", s.kv},   {"tie_word_embeddings", s.tied}};
    EXPECT_EQ(parameter_count(parsed(config)), s.parameters) << config;
  }
}

TEST(WeightSpecs, NamesShapesAndBeginnings) {
  const Architecture a = parsed(with(hypenet_config(2, 256, 512, 2, {1}), "num_key_value_heads", 1));
  std::vector<std::string> names;
  for (const WeightSpec& spec : weight_specs(a)) {
    names.push_back(spec.name);
    const bool norm = spec.name.find("norm") != std::string::npos;
    EXPECT_EQ(spec.init, norm ? WeightSpec::Init::kOnes : WeightSpec::Init::kNormal) << spec.name;
    if (spec.name == "model.layers.0.self_attn.o_norm.weight") {
      EXPECT_EQ(spec.shape, (std::vector<int64_t>{256}));
    }
    if (spec.name == "model.layers.1.self_attn.k_proj.weight") {
      EXPECT_EQ(spec.shape, (std::vector<int64_t>{128, 256}));
    }
  }
  EXPECT_EQ(names.front(), "model.embed_tokens.weight");
  EXPECT_EQ(names.back(), "model.norm.weight");
  const Architecture biased = parsed(with(with(of_type("llama"), "attention_bias", true), "mlp_bias", true));
  int64_t zeros = 0;
  for (const WeightSpec& spec : weight_specs(biased)) zeros += spec.init == WeightSpec::Init::kZeros ? 1 : 0;
  EXPECT_EQ(zeros, 32 * 7);
}

}  // namespace
}  // namespace qkr
