// What config.json says about a model's forward pass, for every family that this code runs: HypeNet (both generations of its
// config), Qwen3, Qwen2/2.5 and Llama 2/3. Defaults are those of the official config classes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/core/mixer_layer.h"

namespace qkr {

enum class Family { kHypeNet, kQwen3, kQwen2, kLlama };
enum class MixerKind { kSoftmax, kLightning };

// Rotary frequencies and the factor on cos and sin; the rules are in rope.h.
struct RopeScaling {
  std::string type = "default";  // default, linear, llama3, yarn
  double factor = 1.0;
  double low_freq_factor = 0.0, high_freq_factor = 0.0;  // llama3
  double original_max_position = 0.0;                    // llama3, yarn
  double beta_fast = 32.0, beta_slow = 1.0;              // yarn
  std::optional<double> attention_factor, mscale, mscale_all_dim;
  bool truncate = true;
};

// HypeNet's attn_logits_scaling: a factor on q that grows with the position, log(t + a) / log(trunc(a)), or a constant.
struct LogitsScaling {
  enum class Kind { kNone, kHype, kConstant } kind = Kind::kNone;
  double a = 0.0;         // kHype
  double constant = 1.0;  // kConstant
};

// Refuses what the official class refuses or crashes on (an integer; trunc(a) < 2). `value` is JSON text: null, "\"hype 500\"",
// 2.0. A one-word string means a = 362, as officially.
LogitsScaling parse_logits_scaling(std::string_view value, const std::string& where);

struct SoftmaxShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  bool qk_norm = false;      // RMSNorm of each head of q and k, before RoPE
  bool rope = true;
  bool output_gate = false;  // o * sigmoid(o_gate(a)), HypeNet
  bool qkv_bias = false, o_bias = false;
  int64_t window = 0;        // keys a query sees, itself included; 0: all
};

struct LightningShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  double scale = 1.0;
  bool qk_norm = false, rope = true, output_norm = false, output_gate = false, bias = false;
};

struct Layer {
  MixerKind mixer = MixerKind::kSoftmax;
  SoftmaxShape softmax;      // if kSoftmax
  LightningShape lightning;  // if kLightning
};

struct Architecture {
  Family family = Family::kLlama;
  std::string model_type;
  int64_t vocab_size = 0, hidden_size = 0, intermediate_size = 0;
  double rms_norm_eps = 1e-6;
  double initializer_range = 0.02;
  bool tied = false;
  bool mlp_bias = false;
  int64_t rope_dim = 0;  // one cos/sin table serves all layers
  double rope_theta = 10000.0;
  RopeScaling rope_scaling;
  LogitsScaling logits_scaling;  // softmax layers of HypeNet
  int64_t max_position = 0;
  std::vector<int64_t> eos_ids;
  std::vector<Layer> layers;

  // 0-based indices of the layers whose mixer is softmax attention: the set that a restore works on.
  std::vector<int64_t> softmax_layers() const;
};

const char* family_name(Family family);

// Every key is used, known to be harmless, or refused by name. `where` is what errors call the file.
Architecture parse_architecture(std::string_view config_json, const std::string& where);

// A weight of the checkpoint: its name, its shape, and how it begins when a model is made from nothing.
struct WeightSpec {
  enum class Init { kNormal, kOnes, kZeros };
  std::string name;
  std::vector<int64_t> shape;
  Init init = Init::kNormal;
};

// In the order in which the forward pass meets them.
std::vector<WeightSpec> weight_specs(const Architecture& architecture);

// Every layer's mixer, all its weights with the part that each plays.
std::vector<MixerLayer> mixer_layers(const Architecture& architecture);

int64_t parameter_count(const Architecture& architecture);

}  // namespace qkr
