#include <ATen/core/Tensor.h>

#include <algorithm>
#include <set>

#include "trainer/apps/offline.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

// A key of config.json that the forward pass depends on, and what a folder says about it.
struct Fact {
  std::string key, value;
};

std::string scaling_text(const RopeScaling& s) {
  const auto maybe = [](const std::optional<double>& value) { return value ? std::to_string(*value) : "none"; };
  return concat(s.type, " factor ", s.factor, " low ", s.low_freq_factor, " high ", s.high_freq_factor, " original ", s.original_max_position,
                " beta ", s.beta_fast, "/", s.beta_slow, " attention ", maybe(s.attention_factor), " mscale ", maybe(s.mscale), "/",
                maybe(s.mscale_all_dim), " truncate ", s.truncate);
}

std::string logits_text(const LogitsScaling& s) {
  if (s.kind == LogitsScaling::Kind::kNone) return "null";
  return s.kind == LogitsScaling::Kind::kHype ? concat("hype ", s.a) : concat(s.constant);
}

std::string mixer_text(const Layer& layer) {
  if (layer.mixer == MixerKind::kSoftmax) {
    const SoftmaxShape& s = layer.softmax;
    return concat("softmax, heads ", s.heads, "/", s.kv_heads, " of ", s.head_dim, ", qk norm ", s.qk_norm, ", rope ", s.rope,
                  ", output gate ", s.output_gate, ", bias ", s.qkv_bias, "/", s.o_bias, ", window ", s.window);
  }
  const LightningShape& l = layer.lightning;
  return concat("lightning, heads ", l.heads, "/", l.kv_heads, " of ", l.head_dim, ", scale ", l.scale, ", qk norm ", l.qk_norm, ", rope ",
                l.rope, ", output norm ", l.output_norm, ", output gate ", l.output_gate, ", bias ", l.bias);
}

// Not vocab_size and tying: a tuned model may have new tokens.
std::vector<Fact> facts_of(const Architecture& a) {
  std::vector<Fact> facts = {{"model_type", family_name(a.family)},
                             {"num_hidden_layers", concat(a.layers.size())},
                             {"hidden_size", concat(a.hidden_size)},
                             {"intermediate_size", concat(a.intermediate_size)},
                             {"rms_norm_eps", concat(a.rms_norm_eps)},
                             {"mlp_bias", concat(a.mlp_bias)},
                             {"rope_theta", concat(a.rope_theta)},
                             {"rope_scaling", scaling_text(a.rope_scaling)},
                             {"attn_logits_scaling", logits_text(a.logits_scaling)}};
  for (size_t i = 0; i < a.layers.size(); ++i) facts.push_back({concat("mixer of layer ", i), mixer_text(a.layers[i])});
  return facts;
}

void check_configs(const ModelSource& base, const ModelSource& tuned, const std::vector<std::string>& ignored) {
  const std::vector<Fact> ours = facts_of(base.architecture), theirs = facts_of(tuned.architecture);
  std::vector<std::string> keys;
  for (size_t i = 0; i < 9; ++i) keys.push_back(ours[i].key);
  for (const std::string& key : ignored) {
    const bool may_differ = key == "rms_norm_eps" || key == "rope_theta" || key == "rope_scaling" || key == "attn_logits_scaling";
    if (!may_differ) {
      fail("--ignore-config: must be rms_norm_eps, rope_theta, rope_scaling or attn_logits_scaling, got ", quoted(key),
           did_you_mean(key, keys));
    }
  }
  for (size_t i = 0; i < std::min(ours.size(), theirs.size()); ++i) {
    if (ours[i].value == theirs[i].value || std::find(ignored.begin(), ignored.end(), ours[i].key) != ignored.end()) continue;
    fail(tuned.folder, "/config.json: ", ours[i].key, " must be as in ", base.folder, ", ", ours[i].value, ", got ", theirs[i].value);
  }
}

bool is_of_a_layer(const std::string& name) { return starts_with(name, kLayersPrefix) && !ends_with(name, "rotary_emb.inv_freq"); }

void check_shape(const SafetensorsFolder& folder, const WeightSpec& spec) {
  if (!folder.contains(spec.name)) fail(folder.path(), ": tensor ", spec.name, " must be there by config.json, got none of that name");
  if (folder.shape(spec.name) != spec.shape) {
    fail(folder.path(), ": tensor ", spec.name, ": shape must be ", at::IntArrayRef(spec.shape), " by config.json, got ",
         at::IntArrayRef(folder.shape(spec.name)));
  }
}

void check_tensors(const ModelPair& pair) {
  std::set<std::string> known;
  for (const WeightSpec& spec : weight_specs(pair.tuned.architecture)) {
    if (!is_of_a_layer(spec.name)) continue;
    known.insert(spec.name);
    check_shape(pair.base_files, spec);
    check_shape(pair.tuned_files, spec);
    const std::string base = pair.base_files.dtype(spec.name), tuned = pair.tuned_files.dtype(spec.name);
    if (base != tuned) {
      fail(pair.tuned_files.path(), ": tensor ", spec.name, ": dtype must be as in ", pair.base_files.path(), ", ", base, ", got ", tuned);
    }
    if (tuned != "F64" && tuned != "F32" && tuned != "F16" && tuned != "BF16") {
      fail(pair.tuned_files.path(), ": tensor ", spec.name, ": dtype must be F64, F32, F16 or BF16, got ", tuned);
    }
  }
  for (const SafetensorsFolder* folder : {&pair.base_files, &pair.tuned_files}) {
    for (const std::string& name : folder->names()) {
      if (is_of_a_layer(name) && known.count(name) == 0) {
        fail(folder->path(), ": tensor ", quoted(name, 200), " must be part of the model that config.json describes, got one that is not");
      }
    }
  }
}

void need_folder(const char* flag, const std::string& folder) {
  std::error_code ignored;
  if (std::filesystem::is_directory(folder, ignored)) return;
  fail(flag, ": must be a model folder, got ", quoted(folder), std::filesystem::exists(folder, ignored) ? ", a file" : ", which is not there");
}

}  // namespace

ModelPair ModelPair::open(const OfflineOptions& options) {
  need_folder("--base", options.base);
  need_folder("--tuned", options.tuned);
  const ModelSource base = ModelSource::read(options.base, "checkpoint"), tuned = ModelSource::read(options.tuned, "checkpoint");
  check_configs(base, tuned, options.ignore_config);
  ModelPair pair{base, tuned, SafetensorsFolder(options.base), SafetensorsFolder(options.tuned), mixer_layers(tuned.architecture)};
  check_tensors(pair);
  return pair;
}

}  // namespace qkr
