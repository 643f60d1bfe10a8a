#include "trainer/model/architecture.h"

#include <cmath>
#include <sstream>

#include "trainer/core/error.h"
#include "trainer/model/config_reader.h"

namespace qkr {
namespace {

// Keys of transformers' PretrainedConfig and of exports that change nothing in the forward pass of these families.
const std::vector<std::string> kHarmless = {
    "architectures", "auto_map", "_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache",
    "bos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id", "tokenizer_class", "prefix",
    "task_specific_params", "problem_type", "finetuning_task", "id2label", "label2id", "return_dict", "output_hidden_states",
    "output_attentions", "torchscript", "use_bfloat16", "tf_legacy_loss", "chunk_size_feed_forward", "tie_encoder_decoder",
    "max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty",
    "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores", "return_dict_in_generate",
    "forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens", "is_llama_config", "unsloth_*", "_attn_implementation*", "attn_implementation"};

// HypeNet: other mixers' settings (refused where a layer uses one), losses of its distillation, converters' leftovers.
const std::vector<std::string> kHarmlessHypeNet = {
    "expand_kv_proj", "loss_fn", "fused_ce_loss", "shift_labels", "rand_init", "rope_parameters", "gdn_*", "kda_*",
    "mamba2_*", "max_window_layers", "lightning_rope_scaling", "sliding_window", "use_sliding_window", "layer_types"};

bool absent(ConfigReader& config, const std::string& key) {
  config.raw(key);  // looked at, so no unknown key
  return !config.has(key);
}

// null and an absent key mean different things for key/value heads: null = heads, absent = the class default.
int64_t kv_heads(ConfigReader& config, int64_t heads, int64_t class_default, bool key_is_there) {
  if (!absent(config, "num_key_value_heads")) return config.size("num_key_value_heads");
  return key_is_there || class_default == 0 ? heads : class_default;
}

void check_groups(ConfigReader& config, const char* name, int64_t heads, int64_t kv) {
  if (heads % kv != 0) config.refuse(name, "a divisor of the query heads (" + std::to_string(heads) + ")");
}

int64_t layer_count(ConfigReader& config) {
  constexpr int64_t kMost = 10'000;  // every layer costs memory as soon as it is named
  const int64_t count = config.size("num_hidden_layers", 32);
  if (count > kMost) config.refuse("num_hidden_layers", "at most " + std::to_string(kMost));
  return count;
}

RopeScaling read_scaling(ConfigReader scaling) {
  RopeScaling rope;
  rope.type = scaling.string("rope_type", scaling.string("type", "default"));
  scaling.raw("type");
  scaling.raw("rope_theta");
  rope.factor = scaling.number("factor", 1.0);
  rope.original_max_position = scaling.number("original_max_position_embeddings", 0.0);
  rope.low_freq_factor = scaling.number("low_freq_factor", 0.0);
  rope.high_freq_factor = scaling.number("high_freq_factor", 0.0);
  rope.beta_fast = scaling.number("beta_fast", 32.0);
  rope.beta_slow = scaling.number("beta_slow", 1.0);
  rope.truncate = scaling.boolean("truncate", true);
  if (scaling.has("attention_factor")) rope.attention_factor = scaling.number("attention_factor", 1.0);
  if (scaling.has("mscale")) rope.mscale = scaling.number("mscale", 0.0);
  if (scaling.has("mscale_all_dim")) rope.mscale_all_dim = scaling.number("mscale_all_dim", 0.0);
  if (rope.type != "default" && rope.type != "linear" && rope.type != "llama3" && rope.type != "yarn") {
    scaling.refuse(scaling.has("rope_type") ? "rope_type" : "type",
                   "default, linear, llama3 or yarn (frequencies that depend on the call's length are not supported)");
  }
  scaling.refuse_unknown({});
  if (rope.type == "default") return rope;
  if (!(rope.factor > 0) || !scaling.has("factor")) scaling.refuse("factor", "a positive number");
  if (rope.type == "llama3") {
    for (const char* key : {"low_freq_factor", "high_freq_factor", "original_max_position_embeddings"}) {
      if (!(scaling.number(key, 0) > 0)) scaling.refuse(key, "a positive number");
    }
    if (!(rope.high_freq_factor > rope.low_freq_factor)) scaling.refuse("high_freq_factor", "above low_freq_factor");
  }
  return rope;
}

void read_rope(ConfigReader& config, Architecture& a, double default_theta, bool parameters_count) {
  a.rope_theta = config.number("rope_theta", default_theta);
  if (auto scaling = config.object("rope_scaling")) a.rope_scaling = read_scaling(std::move(*scaling));
  if (parameters_count) {  // transformers 5 writes both in one object
    if (auto parameters = config.object("rope_parameters")) {
      a.rope_theta = parameters->number("rope_theta", a.rope_theta);
      a.rope_scaling = read_scaling(std::move(*parameters));
    }
  }
  if (a.rope_scaling.type == "yarn" && a.rope_scaling.original_max_position == 0) {
    a.rope_scaling.original_max_position = static_cast<double>(a.max_position);
  }
  if (!(a.rope_theta > 1)) config.refuse("rope_theta", "above 1");
}

void read_common(ConfigReader& config, Architecture& a, double default_eps) {
  a.hidden_size = config.size("hidden_size", 4096);
  a.rms_norm_eps = config.number("rms_norm_eps", default_eps);
  if (!(a.rms_norm_eps >= 0 && a.rms_norm_eps < 1)) config.refuse("rms_norm_eps", "at least 0 and below 1");
  a.initializer_range = config.number("initializer_range", 0.02);
  a.tied = config.boolean("tie_word_embeddings", false);
  a.eos_ids = config.integers("eos_token_id");
  const std::string act = config.string("hidden_act", "silu");
  if (act != "silu" && act != "swish") config.refuse("hidden_act", "silu");
  if (config.number("attention_dropout", 0.0) != 0.0) config.refuse("attention_dropout", "0");
  config.must_be("quantization_config", nlohmann::ordered_json(nullptr));
  config.must_be("is_encoder_decoder", false);
  config.must_be("is_decoder", false);
  config.must_be("add_cross_attention", false);
  config.must_be("cross_attention_hidden_size", nlohmann::ordered_json(nullptr));
  config.must_be("pruned_heads", nlohmann::ordered_json::object());
}

// Which layers of a Qwen model see a window: layer_types wins, else use_sliding_window with i >= max_window_layers.
void read_windows(ConfigReader& config, Architecture& a) {
  const bool on = config.boolean("use_sliding_window", false);
  const int64_t window = config.integer("sliding_window", 4096);
  const int64_t first = config.integer("max_window_layers", 28);
  const std::vector<std::string> types = config.strings("layer_types");
  if (!types.empty() && types.size() != a.layers.size()) {
    config.refuse("layer_types", "a list of " + std::to_string(a.layers.size()) + " names");
  }
  for (size_t i = 0; i < a.layers.size(); ++i) {
    bool sliding = on && static_cast<int64_t>(i) >= first;
    if (!types.empty()) {
      if (types[i] != "full_attention" && types[i] != "sliding_attention") {
        config.refuse("layer_types", "full_attention or sliding_attention in every place");
      }
      sliding = types[i] == "sliding_attention";
    }
    if (sliding && window < 1) config.refuse("sliding_window", "a positive integer where layers slide");
    a.layers[i].softmax.window = sliding ? window : 0;
  }
}

void read_dense(ConfigReader& config, Architecture& a, bool kv_key_is_there) {
  const bool qwen = a.family != Family::kLlama;
  a.vocab_size = config.size("vocab_size", qwen ? 151936 : 32000);
  a.intermediate_size = config.size("intermediate_size", qwen ? 22016 : 11008);
  a.max_position = config.integer("max_position_embeddings", qwen ? 32768 : 2048);
  a.mlp_bias = a.family == Family::kLlama && config.boolean("mlp_bias", false);
  SoftmaxShape s;
  s.heads = config.size("num_attention_heads", 32);
  s.kv_heads = kv_heads(config, s.heads, qwen ? 32 : 0, kv_key_is_there);
  check_groups(config, "num_key_value_heads", s.heads, s.kv_heads);
  const int64_t even_split = a.hidden_size / s.heads;
  s.head_dim = config.size("head_dim", a.family == Family::kQwen3 && absent(config, "head_dim") ? 128 : even_split);
  s.qk_norm = a.family == Family::kQwen3;
  const bool bias = a.family != Family::kQwen2 && config.boolean("attention_bias", false);
  s.qkv_bias = a.family == Family::kQwen2 || bias;
  s.o_bias = bias;
  Layer layer;
  layer.softmax = s;
  a.layers.assign(layer_count(config), layer);
  a.rope_dim = s.head_dim;
  if (s.head_dim % 2 != 0) config.refuse("head_dim", "even");
  read_rope(config, a, 10000.0, true);
  if (qwen) read_windows(config, a);
  std::vector<std::string> harmless = kHarmless;
  if (a.family == Family::kQwen2) config.must_be("use_mrope", false);
  if (a.family == Family::kLlama) {
    config.must_be("pretraining_tp", 1);
    config.must_be("rope_interleaved", false);
  }
  config.refuse_unknown(harmless);
}

MixerKind mixer_kind(ConfigReader& config, const std::string& name) {
  if (name == "attn") return MixerKind::kSoftmax;
  if (name == "lightning-attn" || name == "lightning_attn") return MixerKind::kLightning;
  config.refuse("mixer_types", "attn or lightning-attn in every place");
}

SoftmaxShape hypenet_softmax(ConfigReader& config, const Architecture& a, bool kv_key_is_there) {
  SoftmaxShape s;
  s.heads = config.size("num_attention_heads", 32);
  s.kv_heads = kv_heads(config, s.heads, 32, kv_key_is_there);
  check_groups(config, "num_key_value_heads", s.heads, s.kv_heads);
  const bool null_dim = config.raw("head_dim").is_null();
  s.head_dim = config.size("head_dim", null_dim ? a.hidden_size / s.heads : 128);
  s.qk_norm = true;
  s.rope = config.boolean("attn_use_rope", true);
  s.output_gate = config.boolean("attn_use_output_gate", false);
  s.qkv_bias = s.o_bias = config.boolean("attention_bias", false);
  config.must_be("attn_sqrtd", true);
  return s;
}

LightningShape hypenet_lightning(ConfigReader& config, const SoftmaxShape& s) {
  LightningShape l;
  l.heads = config.size("lightning_nh", s.heads);
  l.kv_heads = config.size("lightning_nkv", s.kv_heads);
  check_groups(config, "lightning_nkv", l.heads, l.kv_heads);
  l.head_dim = config.size("lightning_head_dim", s.head_dim);
  const std::string scale = config.string("lightning_scale", "1/sqrt(d)");
  if (scale == "1/sqrt(d)") {
    l.scale = 1.0 / std::sqrt(static_cast<double>(l.head_dim));
  } else if (scale == "1/d") {
    l.scale = 1.0 / static_cast<double>(l.head_dim);
  }
  l.rope = config.boolean("lightning_use_rope", true);
  l.qk_norm = config.boolean("lightning_use_qk_norm", false);
  l.output_norm = config.boolean("lightning_use_output_norm", false);
  l.output_gate = config.boolean("lightning_use_output_gate", false);
  l.bias = config.boolean("attention_bias", false);
  config.must_be("lightning_use_short_conv", false);  // official dead code: its channel count cannot run
  if (l.rope && l.head_dim != s.head_dim) config.refuse("lightning_head_dim", "head_dim: one rotary table serves both");
  return l;
}

void read_hypenet(ConfigReader& config, Architecture& a, bool kv_key_is_there) {
  a.vocab_size = config.size("vocab_size", 151936);
  a.intermediate_size = config.size("intermediate_size", 22016);
  a.max_position = config.integer("max_position_embeddings", 32768);
  Layer layer;
  layer.softmax = hypenet_softmax(config, a, kv_key_is_there);
  layer.lightning = hypenet_lightning(config, layer.softmax);
  const int64_t count = layer_count(config);
  const std::vector<std::string> types = config.strings("mixer_types");
  if (!types.empty() && static_cast<int64_t>(types.size()) != count) {
    config.refuse("mixer_types", "a list of num_hidden_layers = " + std::to_string(count) + " names");
  }
  for (int64_t i = 0; i < count; ++i) {
    layer.mixer = types.empty() ? MixerKind::kSoftmax : mixer_kind(config, types[i]);
    a.layers.push_back(layer);
  }
  a.rope_dim = layer.softmax.head_dim;
  if (a.rope_dim % 2 != 0) config.refuse("head_dim", "even");
  read_rope(config, a, 10000.0, false);
  a.logits_scaling = parse_logits_scaling(config.raw("attn_logits_scaling").dump(), config.where());
  std::vector<std::string> harmless = kHarmless;
  harmless.insert(harmless.end(), kHarmlessHypeNet.begin(), kHarmlessHypeNet.end());
  config.refuse_unknown(harmless);
}

}  // namespace

LogitsScaling parse_logits_scaling(std::string_view value, const std::string& where) {
  const auto json = nlohmann::json::parse(value, nullptr, false);
  const auto refuse = [&](const char* rule) { fail(where, ": attn_logits_scaling must be ", rule, ", got ", value); };
  LogitsScaling scaling;
  if (json.is_null()) return scaling;
  if (json.is_number_float()) {
    scaling.kind = LogitsScaling::Kind::kConstant;
    scaling.constant = json.get<double>();
    return scaling;
  }
  if (json.is_number() || json.is_boolean()) refuse("a float (write 2.0, not 2), \"hype <a>\" or null");
  if (!json.is_string()) refuse("null, \"hype <a>\" or a float");
  std::istringstream words(json.get<std::string>());
  std::string first, second;
  words >> first >> second;
  scaling.kind = LogitsScaling::Kind::kHype;
  scaling.a = 362.0;
  if (!second.empty()) {
    size_t used = 0;
    try {
      scaling.a = std::stod(second, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used != second.size()) refuse("\"hype <a>\" with a number a");
  }
  if (first.empty() || !(std::trunc(scaling.a) >= 2)) refuse("\"hype <a>\" with a >= 2 (the divisor is log(trunc(a)))");
  return scaling;
}

std::vector<int64_t> Architecture::softmax_layers() const {
  std::vector<int64_t> found;
  for (size_t i = 0; i < layers.size(); ++i) {
    if (layers[i].mixer == MixerKind::kSoftmax) found.push_back(static_cast<int64_t>(i));
  }
  return found;
}

const char* family_name(Family family) {
  switch (family) {
    case Family::kHypeNet: return "HypeNet";
    case Family::kQwen3: return "Qwen3";
    case Family::kQwen2: return "Qwen2";
    case Family::kLlama: return "Llama";
  }
  return "?";
}

Architecture parse_architecture(std::string_view config_json, const std::string& where) {
  ConfigReader config(config_json, where);
  const auto whole = nlohmann::json::parse(config_json);
  const bool kv_key_is_there = whole.contains("num_key_value_heads");
  Architecture a;
  a.model_type = config.string("model_type", "");
  const bool hypenet = a.model_type == "hypenet" || a.model_type == "hybrid";
  if (hypenet) {
    a.family = Family::kHypeNet;
  } else if (a.model_type == "qwen3") {
    a.family = Family::kQwen3;
  } else if (a.model_type == "qwen2") {
    a.family = Family::kQwen2;
  } else if (a.model_type == "llama") {
    a.family = Family::kLlama;
  } else {
    config.refuse("model_type", "hypenet, hybrid, qwen3, qwen2 or llama");
  }
  read_common(config, a, 1e-6);
  if (hypenet) {
    read_hypenet(config, a, kv_key_is_there);
  } else {
    read_dense(config, a, kv_key_is_there);
  }
  return a;
}

}  // namespace qkr
