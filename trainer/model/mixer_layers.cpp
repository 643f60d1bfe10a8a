#include <map>

#include "trainer/core/error.h"
#include "trainer/model/architecture.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

// What the weights of a mixer are called below self_attn, in either kind of layer.
MixerTensor read_name(const std::string& name, const std::string& module) {
  static const std::map<std::string, MixerTensor> kModules = {
      {"q_proj", {MixerPart::kQ, MixerRole::kWeight, ""}},  {"k_proj", {MixerPart::kK, MixerRole::kWeight, ""}},
      {"v_proj", {MixerPart::kV, MixerRole::kWeight, ""}},  {"o_proj", {MixerPart::kO, MixerRole::kWeight, ""}},
      {"o_gate", {MixerPart::kGate, MixerRole::kWeight, ""}}, {"z_proj", {MixerPart::kGate, MixerRole::kWeight, ""}},
      {"q_norm", {MixerPart::kQ, MixerRole::kGain, ""}},    {"k_norm", {MixerPart::kK, MixerRole::kGain, ""}},
      {"o_norm", {MixerPart::kO, MixerRole::kGain, ""}},
  };
  const size_t dot = module.find('.');
  const auto found = kModules.find(module.substr(0, dot));
  if (found == kModules.end()) fail("model: tensor ", name, " of a mixer has no part");
  MixerTensor tensor = found->second;
  if (module.substr(dot) == ".bias") tensor.role = MixerRole::kBias;
  tensor.name = name;
  return tensor;
}

}  // namespace

std::vector<MixerLayer> mixer_layers(const Architecture& architecture) {
  std::vector<MixerLayer> layers;
  for (size_t i = 0; i < architecture.layers.size(); ++i) {
    const Layer& layer = architecture.layers[i];
    const auto number = static_cast<int64_t>(i);
    if (layer.mixer == MixerKind::kSoftmax) {
      layers.push_back({number, true, layer.softmax.heads, layer.softmax.kv_heads, layer.softmax.head_dim, layer.softmax.rope, false, {}});
    } else {
      const LightningShape& l = layer.lightning;
      layers.push_back({number, false, l.heads, l.kv_heads, l.head_dim, l.rope, false, {}});
    }
  }
  const std::string start = kLayersPrefix, middle = ".self_attn.";
  for (const WeightSpec& spec : weight_specs(architecture)) {
    const size_t place = spec.name.find(middle);
    if (place == std::string::npos) continue;
    MixerLayer& layer = layers.at(std::stoul(spec.name.substr(start.size())));
    layer.tensors.push_back(read_name(spec.name, spec.name.substr(place + middle.size())));
  }
  return layers;
}

}  // namespace qkr
