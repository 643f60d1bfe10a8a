#include "trainer/binding/options.h"

#include <array>
#include <nlohmann/json.hpp>
#include <regex>

#include "trainer/config/parse.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

using nlohmann::json;

constexpr std::array kParts = {"q", "k", "v", "o", "gate"};         // in the order of MixerPart
constexpr std::array kRoles = {"weight", "bias", "gain"};          // and of MixerRole

json parse_object(const std::string& text) {
  const json options = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!options.is_object()) fail("options: must be a JSON object, got ", quoted(text));
  return options;
}

// JSON is YAML, so that each value can be an override of the configuration.
RunConfig config_with(const std::string& section, const std::string& text) {
  std::vector<std::string> set = {"model.path=none", "data.train=[none]", "output=nowhere"};
  const json options = parse_object(text);
  for (const auto& [key, value] : options.items()) set.push_back(section + "." + key + "=" + value.dump());
  try {
    return parse_config("", "", set);
  } catch (const Error& error) {
    throw Error(error.code(), in_option_words(error.what()));
  }
}

template <size_t kCount>
int index_of(const std::array<const char*, kCount>& words, const std::string& word, const char* key) {
  for (size_t i = 0; i < kCount; ++i) {
    if (word == words[i]) return static_cast<int>(i);
  }
  fail("layers: ", key, ": must be one of ", join(std::vector<std::string>(words.begin(), words.end())), ", got ", quoted(word));
}

// Every key of `object` once, by its name and type.
class Reader {
 public:
  explicit Reader(const json& object) : object_(object) {
    if (!object.is_object()) fail("layers: must be a list of objects, got ", object.dump());
  }
  template <class Value>
  Reader& read(const char* key, Value& value) {
    const auto found = object_.find(key);
    const bool is_there = found != object_.end();
    ++read_;
    bool fits = is_there && found->is_number_integer();
    if constexpr (std::is_same_v<Value, bool>) fits = is_there && found->is_boolean();
    if constexpr (std::is_same_v<Value, std::string>) fits = is_there && found->is_string();
    if constexpr (std::is_same_v<Value, json>) fits = is_there && found->is_array();
    if (!fits) fail("layers: ", key, ": must be there, of its type, got ", is_there ? found->dump() : "nothing");
    found->get_to(value);
    return *this;
  }
  void done() const {
    if (read_ != object_.size()) fail("layers: must have ", read_, " keys in ", object_.dump());
  }

 private:
  const json& object_;
  size_t read_ = 0;
};

MixerTensor tensor_from(const json& object) {
  std::string part, role, name;
  Reader(object).read("part", part).read("role", role).read("name", name).done();
  return {static_cast<MixerPart>(index_of(kParts, part, "part")), static_cast<MixerRole>(index_of(kRoles, role, "role")), name};
}

}  // namespace

std::string in_option_words(const std::string& text) {
  static const std::regex kPlace("(^|\n)--set [^\n]*?: (?=(qk_restore|probe)\\.)"), kSection("(qk_restore|probe)\\.(?=\\w)");
  return std::regex_replace(std::regex_replace(text, kPlace, "$1"), kSection, "");
}

RestoreConfigSection restore_options(const std::string& text) {
  const json options = parse_object(text);
  if (options.value("method", json()) == "auto") {
    fail("method: must be one method, got auto, which needs a run to score its candidates; sft-train --qk-restore auto does it");
  }
  return config_with("qk_restore", text).qk_restore;
}

ProbeConfigSection probe_options(const std::string& text) { return config_with("probe", text).probe; }

std::string layers_to_json(const std::vector<MixerLayer>& layers) {
  json list = json::array();
  for (const MixerLayer& layer : layers) {
    json tensors = json::array();
    for (const MixerTensor& t : layer.tensors) {
      tensors.push_back({{"part", kParts[static_cast<size_t>(t.part)]}, {"role", kRoles[static_cast<size_t>(t.role)]}, {"name", t.name}});
    }
    list.push_back({{"layer", layer.layer}, {"softmax", layer.softmax}, {"heads", layer.heads}, {"kv_heads", layer.kv_heads},
                    {"head_dim", layer.head_dim}, {"rope", layer.rope}, {"qk_activation", layer.qk_activation}, {"tensors", tensors}});
  }
  return list.dump();
}

std::vector<MixerLayer> layers_from_json(const std::string& text) {
  const json list = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) fail("layers: must be a JSON list, got ", quoted(text));
  std::vector<MixerLayer> layers;
  for (const json& object : list) {
    MixerLayer layer;
    json tensors;
    Reader(object).read("layer", layer.layer).read("softmax", layer.softmax).read("heads", layer.heads).read("kv_heads", layer.kv_heads)
        .read("head_dim", layer.head_dim).read("rope", layer.rope).read("qk_activation", layer.qk_activation).read("tensors", tensors).done();
    for (const json& tensor : tensors) layer.tensors.push_back(tensor_from(tensor));
    if (layer.kv_heads < 1 || layer.head_dim < 1 || layer.heads % layer.kv_heads != 0) {
      fail("layers: layer ", layer.layer, " must have heads that are a multiple of kv_heads, got ", layer.heads, " and ", layer.kv_heads);
    }
    layers.push_back(std::move(layer));
  }
  return layers;
}

}  // namespace qkr
