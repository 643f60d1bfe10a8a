// config.json texts for the tests of the model room.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/model/architecture.h"

namespace qkr::test {

using Json = nlohmann::ordered_json;

inline Architecture parsed(const Json& config) { return parse_architecture(config.dump(), "config.json"); }

// The error text of a config that must be refused, which is bad input (exit code 2).
inline std::string refusal(const Json& config) {
  try {
    parsed(config);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    return error.what();
  }
  return "accepted";
}

inline Json with(Json config, const std::string& key, const Json& value) {
  config[key] = value;
  return config;
}

inline Json of_type(const std::string& model_type) { return {{"model_type", model_type}}; }

// The settings of the released HypeNet models that decide shapes (all sizes).
inline Json hypenet_config(int64_t layers, int64_t hidden, int64_t inner, int64_t heads,
                           const std::vector<int64_t>& softmax) {
  Json config = {{"model_type", "hypenet"},
                 {"vocab_size", 151936},
                 {"hidden_size", hidden},
                 {"intermediate_size", inner},
                 {"num_hidden_layers", layers},
                 {"num_attention_heads", heads},
                 {"num_key_value_heads", 8},
                 {"head_dim", 128},
                 {"rope_theta", 1e6},
                 {"tie_word_embeddings", true},
                 {"attn_use_rope", false},
                 {"attn_use_output_gate", true},
                 {"lightning_nh", heads},
                 {"lightning_nkv", heads},
                 {"lightning_head_dim", 128},
                 {"lightning_use_qk_norm", true},
                 {"lightning_use_output_norm", true},
                 {"lightning_use_output_gate", true},
                 {"max_position_embeddings", 1048576}};
  std::vector<std::string> types(layers, "lightning-attn");
  for (const int64_t layer : softmax) types[layer] = "attn";
  config["mixer_types"] = types;
  return config;
}

}  // namespace qkr::test
