// What config.json may not say. Every refusal names the file, the key, the rule and what was got.
#include <gtest/gtest.h>

#include "tests/model/support.h"

namespace qkr {
namespace {

using test::hypenet_config;
using test::Json;
using test::of_type;
using test::refusal;
using test::with;

void expect_has(const std::string& text, const std::vector<std::string>& parts) {
  EXPECT_EQ(text.rfind("config.json", 0), 0u) << text;
  for (const std::string& part : parts) EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks " << part;
}

TEST(Refused, WhatIsNoConfig) {
  expect_has(QKR_MESSAGE_OF(parse_architecture("{\"model_type\": ", "config.json")), {"must be JSON"});
  expect_has(QKR_MESSAGE_OF(parse_architecture("[1]", "config.json")), {"must be a JSON object, got array"});
  expect_has(QKR_MESSAGE_OF(parse_architecture("", "config.json")), {"must be JSON"});
  expect_has(refusal(Json::object()), {"model_type must be hypenet, hybrid, qwen3, qwen2 or llama, got nothing"});
  expect_has(refusal(of_type("mistral")), {"model_type", "got \"mistral\""});
}

TEST(Refused, UnknownKeysWithTheNearestName) {
  expect_has(refusal(with(of_type("llama"), "rope_tetha", 1e5)),
             {"key rope_tetha is not known", "did you mean rope_theta?"});
  expect_has(refusal(with(of_type("qwen3"), "attention_sink", true)), {"key attention_sink is not known"});
  expect_has(refusal(with(of_type("llama"), "partial_rotary_factor", 0.5)), {"key partial_rotary_factor is not known"});
  expect_has(refusal(with(of_type("hypenet"), "lightning_use_qk_norms", true)),
             {"did you mean lightning_use_qk_norm?"});
  expect_has(refusal(with(of_type("llama"), "gdn_nh", 4)), {"key gdn_nh is not known"});  // harmless in HypeNet alone
  Json scaling = {{"rope_type", "linear"}, {"factor", 2.0}, {"factr", 3}};
  expect_has(refusal(with(of_type("llama"), "rope_scaling", scaling)),
             {"config.json: rope_scaling: key factr", "did you mean factor?"});
}

TEST(Refused, InOneLineWhateverTheFileHolds) {
  EXPECT_EQ(refusal(with(of_type("llama"), "a\nb", 1)),
            "config.json: key 'a\\nb' is not known to this program, so the model may mean something else than what would run");
  EXPECT_EQ(refusal(with(of_type("llama"), "hidden_size", std::string(76, 'x') + "é€")),
            "config.json: hidden_size must be an integer, got \"" + std::string(76, 'x') + "é…");  // not within a character
}

TEST(Refused, WrongTypes) {
  expect_has(refusal(with(of_type("llama"), "hidden_size", "64")), {"hidden_size must be an integer, got \"64\""});
  expect_has(refusal(with(of_type("llama"), "hidden_size", 64.5)), {"hidden_size must be an integer, got 64.5"});
  expect_has(refusal(with(of_type("llama"), "hidden_size", 0)), {"hidden_size must be a positive integer, got 0"});
  expect_has(refusal(with(of_type("llama"), "vocab_size", -5)), {"vocab_size must be a positive integer, got -5"});
  expect_has(refusal(with(of_type("llama"), "vocab_size", 1e30)), {"vocab_size"});
  expect_has(refusal(with(of_type("llama"), "tie_word_embeddings", 1)),
             {"tie_word_embeddings must be true or false, got 1"});
  expect_has(refusal(with(of_type("llama"), "rms_norm_eps", -1e-6)), {"rms_norm_eps must be at least 0 and below 1, got -1e-06"});
  expect_has(refusal(with(of_type("llama"), "rms_norm_eps", "small")),
             {"rms_norm_eps must be a number, got \"small\""});
  expect_has(refusal(with(of_type("llama"), "eos_token_id", "2")),
             {"eos_token_id must be an integer or a list of them"});
  expect_has(refusal(with(of_type("llama"), "eos_token_id", {1, "2"})),
             {"eos_token_id must be an integer or a list of them"});
  expect_has(refusal(with(of_type("llama"), "rope_scaling", "linear")), {"rope_scaling must be an object or null"});
  expect_has(refusal(with(of_type("hypenet"), "mixer_types", "attn")), {"mixer_types must be a list of strings"});
  expect_has(refusal(with(of_type("hypenet"), "mixer_types", {1})), {"mixer_types must be a list of strings"});
}

// A lying number must end in a message, not in all of the machine's memory.
TEST(Refused, MoreLayersThanAnyModelHas) {
  for (const char* type : {"llama", "hypenet"}) {
    expect_has(refusal(with(of_type(type), "num_hidden_layers", 2'000'000'000)),
               {"num_hidden_layers must be", "got 2000000000"});
  }
}

TEST(Refused, WhatChangesTheModel) {
  const Json llama = of_type("llama");
  expect_has(refusal(with(llama, "quantization_config", {{"bits", 4}})),
             {"quantization_config must be null, got {\"bits\":4}"});
  expect_has(refusal(with(llama, "hidden_act", "gelu")), {"hidden_act must be silu, got \"gelu\""});
  expect_has(refusal(with(llama, "attention_dropout", 0.1)), {"attention_dropout must be 0, got 0.1"});
  expect_has(refusal(with(llama, "is_encoder_decoder", true)), {"is_encoder_decoder must be false, got true"});
  expect_has(refusal(with(llama, "pruned_heads", {{"1", {0}}})), {"pruned_heads"});
  expect_has(refusal(with(llama, "pretraining_tp", 2)), {"pretraining_tp must be 1, got 2"});
  expect_has(refusal(with(llama, "rope_interleaved", true)), {"rope_interleaved must be false"});
  expect_has(refusal(with(llama, "rope_theta", 1)), {"rope_theta must be above 1, got 1"});
  expect_has(refusal(with(of_type("qwen2"), "use_mrope", true)), {"use_mrope must be false"});
  expect_has(refusal(with(llama, "num_key_value_heads", 5)),
             {"num_key_value_heads must be a divisor of the query heads (32), got 5"});
  expect_has(refusal(with(llama, "head_dim", 63)), {"head_dim must be even, got 63"});
}

TEST(Refused, HypeNetSettings) {
  const Json base = hypenet_config(4, 2048, 6144, 16, {1});
  expect_has(refusal(with(base, "mixer_types", {"attn", "attn"})),
             {"mixer_types must be a list of num_hidden_layers = 4 names"});
  expect_has(refusal(with(base, "mixer_types", {"attn", "attn", "attn", "gdn"})),
             {"mixer_types must be attn or lightning-attn"});
  expect_has(refusal(with(base, "lightning_use_short_conv", true)),
             {"lightning_use_short_conv must be false, got true"});
  expect_has(refusal(with(base, "attn_sqrtd", false)), {"attn_sqrtd must be true, got false"});
  expect_has(refusal(with(base, "lightning_head_dim", 64)), {"lightning_head_dim must be head_dim"});
  expect_has(refusal(with(base, "lightning_nkv", 3)), {"lightning_nkv must be a divisor"});
  EXPECT_EQ(refusal(with(with(base, "lightning_head_dim", 64), "lightning_use_rope", false)), "accepted");
  EXPECT_EQ(refusal(with(base, "lightning_use_short_conv", false)), "accepted");
}

TEST(Refused, LogitsScaling) {
  const auto refused = [](const Json& value) {
    return refusal(with(of_type("hypenet"), "attn_logits_scaling", value));
  };
  expect_has(refused(2), {"attn_logits_scaling must be a float (write 2.0, not 2)", "got 2"});
  expect_has(refused(true), {"attn_logits_scaling must be a float"});
  expect_has(refused("hype 1"), {"a >= 2", "got \"hype 1\""});
  expect_has(refused("hype 1.99"), {"a >= 2"});
  expect_has(refused("hype nan"), {"a >= 2"});
  expect_has(refused("hype many"), {"with a number a"});
  expect_has(refused(""), {"attn_logits_scaling"});
  expect_has(refused({500}), {"null, \"hype <a>\" or a float"});
  expect_has(refusal(with(of_type("qwen3"), "attn_logits_scaling", nullptr)), {"key attn_logits_scaling is not known"});
}

TEST(Refused, Windows) {
  const Json base = with(of_type("qwen3"), "num_hidden_layers", 2);
  expect_has(refusal(with(base, "layer_types", {"full_attention"})), {"layer_types must be a list of 2 names"});
  expect_has(refusal(with(base, "layer_types", {"full_attention", "chunked_attention"})),
             {"layer_types must be full_attention or sliding_attention"});
  Json windowless = with(with(base, "layer_types", {"full_attention", "sliding_attention"}), "sliding_window", 0);
  expect_has(refusal(windowless), {"sliding_window must be a positive integer where layers slide, got 0"});
  expect_has(refusal(with(of_type("llama"), "sliding_window", 4096)), {"key sliding_window is not known"});
}

TEST(Refused, RopeTypesThatDependOnTheCallAndHalfFilledOnes) {
  const auto refused = [](const Json& scaling) { return refusal(with(of_type("llama"), "rope_scaling", scaling)); };
  for (const char* type : {"dynamic", "longrope", "su", "mrope"}) {
    expect_has(refused({{"rope_type", type}, {"factor", 2.0}}),
               {"rope_scaling: rope_type must be default, linear, llama3 or yarn", type});
    expect_has(refused({{"type", type}, {"factor", 2.0}}),
               {"rope_scaling: type must be default, linear, llama3 or yarn", type});
  }
  // The type is what is wrong with a longrope model, not the keys that come with it.
  expect_has(refused({{"rope_type", "longrope"}, {"short_factor", {1.0}}, {"long_factor", {2.0}}}),
             {"rope_type must be"});
  expect_has(refused({{"rope_type", "linear"}}), {"factor must be a positive number, got nothing"});
  expect_has(refused({{"rope_type", "linear"}, {"factor", -1}}), {"factor must be a positive number, got -1"});
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 8.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  EXPECT_EQ(refused(llama3), "accepted");
  for (const char* key : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
    Json without = llama3;
    without.erase(key);
    expect_has(refused(without), {std::string(key) + " must be a positive number, got nothing"});
  }
  expect_has(refused(with(llama3, "high_freq_factor", 1.0)), {"high_freq_factor must be above low_freq_factor"});
}

}  // namespace
}  // namespace qkr
