#include "trainer/model/folder.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kMaxShardBytes = 5'000'000'000;  // what save_pretrained uses

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) text.replace(at, from.size(), to);
}

// The names under which early HypeNet training runs saved the same tensors; "" for one that belongs to the teacher.
std::string current_hypenet_name(std::string name) {
  if (name.find("teacher_model") != std::string::npos || name.find("teacher_layer") != std::string::npos) return "";
  if (starts_with(name, "student_model.")) name = name.substr(14);
  replace_all(name, "student_layer.", "");
  replace_all(name, "model.model.", "model.");
  replace_all(name, "model.lm_head", "lm_head");
  replace_all(name, ".embeddings.", ".embed_tokens.");
  replace_all(name, ".mixer.", ".self_attn.");
  replace_all(name, ".attn.", ".self_attn.");
  replace_all(name, ".mixer_norm.", ".input_layernorm.");
  replace_all(name, ".attn_norm.", ".input_layernorm.");
  replace_all(name, ".mlp_norm.", ".post_attention_layernorm.");
  return name;
}

// Tensor of the architecture → its name in the folder. Checks that the two sets agree.
std::map<std::string, std::string> match_names(const ModelSource& source, const SafetensorsFolder& files) {
  std::map<std::string, std::string> stored;
  for (const std::string& name : files.names()) {
    const std::string now = source.architecture.family == Family::kHypeNet ? current_hypenet_name(name) : name;
    if (now.empty() || ends_with(now, "rotary_emb.inv_freq")) continue;  // old Llama files carry the table
    if (!stored.emplace(now, name).second) {
      fail(files.path(), ": tensor ", shown_name(now, 200), " must be there once, got ", shown_name(stored[now], 200), " and ", shown_name(name, 200));
    }
  }
  std::map<std::string, std::string> matched;
  for (const WeightSpec& spec : weight_specs(source.architecture)) {
    const auto place = stored.find(spec.name);
    if (place == stored.end()) fail(files.path(), ": tensor ", spec.name, " is missing (config.json asks for it)");
    if (files.shape(place->second) != spec.shape) {
      fail(files.path(), ": tensor ", spec.name, ": shape must be ", at::IntArrayRef(spec.shape), " by config.json, got ",
           at::IntArrayRef(files.shape(place->second)));
    }
    const std::string dtype = files.dtype(place->second);
    if (dtype != "F32" && dtype != "BF16" && dtype != "F16" && dtype != "F64") {
      fail(files.path(), ": tensor ", spec.name, ": dtype must be F32, BF16, F16 or F64, got ", dtype);
    }
    matched[spec.name] = place->second;
    stored.erase(place);
  }
  if (source.architecture.tied && stored.count(kHeadName) != 0) {
    matched[kHeadName] = stored[kHeadName];
    stored.erase(kHeadName);
  }
  if (!stored.empty()) fail(files.path(), ": tensor ", shown_name(stored.begin()->second, 200), " is not part of the model that config.json describes");
  return matched;
}

void check_tied_head(const SafetensorsFolder& files, const std::map<std::string, std::string>& matched) {
  const auto head = matched.find(kHeadName);
  if (head == matched.end()) return;
  if (!at::equal(files.tensor(head->second), files.tensor(matched.at(kEmbeddingName)))) {
    fail(files.path(), ": tensor ", kHeadName, " must equal ", kEmbeddingName, " (config.json ties them), got other values");
  }
}

std::string with_logits_scaling(const std::string& config_json, const std::string& value, const std::string& where) {
  Json config = Json::parse(config_json);
  const std::string type = config.value("model_type", "");
  if (type != "hypenet" && type != "hybrid") {
    fail(where, ": model.attn_logits_scaling must be checkpoint for a ", type, " model, got ", value);
  }
  const Json parsed = Json::parse(value, nullptr, false);
  config["attn_logits_scaling"] = parsed.is_discarded() ? Json(value) : parsed;
  return config.dump(2) + "\n";
}

const char* dtype_name(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16: return "bfloat16";
    case at::kHalf: return "float16";
    case at::kDouble: return "float64";
    default: return "float32";
  }
}

std::string config_with_dtype(const std::string& config_json, at::ScalarType dtype) {
  Json config = Json::parse(config_json);
  const char* key = config.contains("dtype") && !config.contains("torch_dtype") ? "dtype" : "torch_dtype";
  config[key] = dtype_name(dtype);
  return config.dump(2) + "\n";
}

// Everything that is neither weights nor config: tokenizer, template, generation settings, remote code, licence.
bool travels_along(const fs::path& file) {
  static const std::vector<std::string> kNames = {
      "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "chat_template.json", "special_tokens_map.json",
      "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "generation_config.json", "LICENSE", "NOTICE"};
  const std::string name = file.filename().string();
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() || file.extension() == ".py";
}

}  // namespace

ModelSource ModelSource::read(const std::string& folder, const std::string& logits_scaling) {
  const fs::path file = fs::path(folder) / "config.json";
  if (!fs::is_directory(folder)) fail(folder, ": model.path must be a model folder, got ", fs::exists(folder) ? "a file" : "nothing");
  ModelSource source;
  source.folder = folder;
  source.config_json = read_text_file(file);
  source.architecture = parse_architecture(source.config_json, file.string());
  if (logits_scaling != "checkpoint") {
    source.config_json = with_logits_scaling(source.config_json, logits_scaling, folder);
    source.architecture = parse_architecture(source.config_json, file.string() + " with model.attn_logits_scaling");
  }
  return source;
}

void check_weights(const ModelSource& source) { match_names(source, SafetensorsFolder(source.folder)); }

namespace {

// One number that is none makes every output none, and a model that finds nothing looks like one that has forgotten.
void check_finite(const std::string& folder, const std::string& name, const at::Tensor& weight) {
  const auto [low, high] = at::aminmax(weight);  // a NaN is both
  if (std::isfinite(low.item<double>()) && std::isfinite(high.item<double>())) return;
  const at::Tensor place = at::isfinite(weight).logical_not().nonzero()[0].cpu();
  at::Tensor value = weight;
  for (int64_t i = 0; i < place.numel(); ++i) value = value.select(0, place[i].item<int64_t>());
  fail(folder, ": tensor ", name, ": must be finite in ", weight.scalar_type(), ", got ", value.item<double>(), " at ",
       at::IntArrayRef(place.const_data_ptr<int64_t>(), static_cast<size_t>(place.numel())));
}

}  // namespace

Decoder load_decoder(const ModelSource& source, at::ScalarType dtype, at::Device device) {
  const SafetensorsFolder files(source.folder);
  const auto matched = match_names(source, files);
  if (source.architecture.tied) check_tied_head(files, matched);
  NamedTensors weights;
  for (const WeightSpec& spec : weight_specs(source.architecture)) {
    // A copy always: the mapped pages are read-only.
    weights.set(spec.name, files.tensor(matched.at(spec.name)).to(device, dtype, false, true));
    check_finite(source.folder, spec.name, weights.at(spec.name));
  }
  return Decoder(source.architecture, std::move(weights));
}

Decoder random_decoder(const ModelSource& source, at::ScalarType dtype, at::Device device, int64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  NamedTensors weights;
  for (const WeightSpec& spec : weight_specs(source.architecture)) {
    at::Tensor value;
    switch (spec.init) {
      case WeightSpec::Init::kOnes: value = at::ones(spec.shape, at::kFloat); break;
      case WeightSpec::Init::kZeros: value = at::zeros(spec.shape, at::kFloat); break;
      case WeightSpec::Init::kNormal:
        value = at::empty(spec.shape, at::kFloat).normal_(0.0, source.architecture.initializer_range, generator);
    }
    weights.set(spec.name, value.to(device, dtype));
  }
  return Decoder(source.architecture, std::move(weights));
}

int64_t companion_bytes(const ModelSource& source) {
  int64_t bytes = int64_t{4} << 20;  // config.json, headers, the file system's own
  for (const auto& entry : fs::directory_iterator(source.folder)) {
    if (entry.is_regular_file() && travels_along(entry.path())) bytes += static_cast<int64_t>(entry.file_size());
  }
  return bytes;
}

void save_model(const fs::path& folder, const ModelSource& source, const NamedTensors& weights) {
  need_free_bytes(folder, tensor_bytes(weights) + companion_bytes(source), "the model", ExitCode::kRunFailed);
  AtomicFolder made(folder);
  write_safetensors_sharded(made.path(), weights, kMaxShardBytes);
  write_file_atomically(made.path() / "config.json", config_with_dtype(source.config_json, weights.begin()->second.scalar_type()));
  for (const auto& entry : fs::directory_iterator(source.folder)) {
    if (entry.is_regular_file() && travels_along(entry.path())) {
      fs::copy_file(entry.path(), made.path() / entry.path().filename());
      fs::permissions(made.path() / entry.path().filename(), fs::perms::owner_write, fs::perm_options::add);
    }
  }
  made.commit();
}

}  // namespace qkr
