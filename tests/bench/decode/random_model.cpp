#include "tests/bench/decode/random_model.h"

#include <ATen/ATen.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "trainer/core/error.h"
#include "trainer/model/folder.h"

namespace qkr::bench {
namespace {

// HypeNet's released shapes: layers, hidden size, inner size, heads; a softmax layer is every fourth, the last of its four.
std::string hypenet_config(const std::string& size) {
  struct Shape {
    int64_t layers, hidden, inner, heads;
  };
  static const std::map<std::string, Shape> kSizes = {{"2b", {28, 2048, 6144, 16}}, {"5b", {36, 2560, 9728, 32}}, {"9b", {36, 4096, 12288, 32}}};
  const auto found = kSizes.find(size);
  if (found == kSizes.end()) fail("--model must be 2b, 5b, 9b or a config.json, got ", size);
  const Shape& s = found->second;
  nlohmann::json config = {{"model_type", "hypenet"},         {"vocab_size", 151936},          {"hidden_size", s.hidden},
                           {"intermediate_size", s.inner},    {"num_hidden_layers", s.layers}, {"num_attention_heads", s.heads},
                           {"num_key_value_heads", 8},        {"head_dim", 128},               {"rope_theta", 1e6},
                           {"tie_word_embeddings", true},     {"attn_use_rope", false},        {"attn_use_output_gate", true},
                           {"lightning_nh", s.heads},         {"lightning_nkv", s.heads},      {"lightning_head_dim", 128},
                           {"lightning_use_qk_norm", true},   {"lightning_use_output_norm", true},
                           {"lightning_use_output_gate", true}, {"attn_logits_scaling", "hype 900"}};
  std::vector<std::string> types(static_cast<size_t>(s.layers), "lightning-attn");
  for (size_t i = 3; i < types.size(); i += 4) types[i] = "attn";
  config["mixer_types"] = types;
  return config.dump();
}

// What is asked for, as config.json.
std::string config_text(const std::string& model) {
  std::ifstream file(model);
  std::stringstream text;
  text << file.rdbuf();
  return file ? text.str() : hypenet_config(model);
}

}  // namespace

Decoder random_model(const std::string& model, at::Device device) {
  const Architecture architecture = parse_architecture(config_text(model), model);
  NamedTensors weights;
  for (const WeightSpec& spec : weight_specs(architecture)) {
    at::Tensor w = at::empty(spec.shape, at::TensorOptions(device).dtype(at::kBFloat16));
    if (spec.init == WeightSpec::Init::kNormal) w.normal_(0.0, architecture.initializer_range);
    else w.fill_(spec.init == WeightSpec::Init::kOnes ? 1.0 : 0.0);
    weights.set(spec.name, w);
  }
  return Decoder(architecture, std::move(weights));
}

void save_random_model(const std::string& model, const std::string& tokenizer_folder, const std::string& folder, at::Device device) {
  const Decoder decoder = random_model(model, device);
  ModelSource source;
  source.folder = tokenizer_folder;
  source.config_json = config_text(model);
  source.architecture = decoder.architecture();
  save_model(folder, source, decoder.weights());
}

}  // namespace qkr::bench
