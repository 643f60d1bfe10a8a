#include "trainer/loop/trainable.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "trainer/core/error.h"
#include "trainer/core/pattern.h"
#include "trainer/core/text.h"
#include "trainer/model/weight_names.h"

namespace qkr {
namespace {

// W_Q and W_K of the softmax layers, with their biases.
std::set<std::string> routing_weights(const Architecture& architecture) {
  std::set<std::string> names;
  for (const MixerLayer& layer : mixer_layers(architecture)) {
    for (const MixerTensor& tensor : layer.tensors) {
      const bool routing = tensor.part == MixerPart::kQ || tensor.part == MixerPart::kK;
      if (layer.softmax && routing && tensor.role != MixerRole::kGain) names.insert(tensor.name);
    }
  }
  return names;
}

void check_patterns(const Architecture& architecture, const std::vector<std::string>& patterns, const std::vector<std::string>& names) {
  for (const std::string& pattern : patterns) {
    const auto matches = [&](const std::string& name) { return matches_pattern(pattern, name); };
    if (std::any_of(names.begin(), names.end(), matches)) continue;
    const bool head = architecture.tied && matches(kHeadName);
    fail("train.freeze: ", quoted(pattern), " must match a weight of the model, got none",
         head ? concat("; its LM head is ", kEmbeddingName, ", to which it is tied") : near_matches(pattern, names));
  }
}

// 0-based, -1 for the embedding; a name behind the layers counts as behind the last one.
int64_t layer_of(const std::string& name, int64_t layers) {
  if (name == kEmbeddingName) return -1;
  return starts_with(name, kLayersPrefix) ? std::strtoll(name.c_str() + sizeof kLayersPrefix - 1, nullptr, 10) : layers;
}

}  // namespace

std::vector<std::string> frozen_weights(const Architecture& architecture, const TrainConfigSection& config) {
  std::vector<std::string> names, frozen;
  for (const WeightSpec& spec : weight_specs(architecture)) names.push_back(spec.name);
  check_patterns(architecture, config.freeze, names);
  const std::set<std::string> routing = config.freeze_qk ? routing_weights(architecture) : std::set<std::string>();
  std::copy_if(names.begin(), names.end(), std::back_inserter(frozen),
               [&](const std::string& name) { return routing.count(name) != 0 || matches_any(config.freeze, name); });
  if (frozen.size() == names.size()) {
    fail("train.freeze: must leave a weight to train, got [", join(config.freeze), "]", config.freeze_qk ? " and train.freeze_qk" : "", ", which keep all ",
         names.size(), " of the model");
  }
  return frozen;
}

void mark_trainable(const Decoder& decoder, const TrainConfigSection& config) {
  const std::vector<std::string> frozen = frozen_weights(decoder.architecture(), config);
  const std::set<std::string> kept(frozen.begin(), frozen.end());
  for (const auto& [name, weight] : decoder.weights()) weight.set_requires_grad(kept.count(name) == 0);
}

TrainedCount count_trained(const Architecture& architecture, const std::vector<std::string>& frozen) {
  const std::set<std::string> kept(frozen.begin(), frozen.end());
  const int64_t layers = static_cast<int64_t>(architecture.layers.size());
  TrainedCount count;
  count.first_layer = layers;
  for (const WeightSpec& spec : weight_specs(architecture)) {
    if (kept.count(spec.name) != 0) continue;
    int64_t weights = 1;
    for (const int64_t side : spec.shape) weights *= side;
    count.weights += weights;
    ++count.tensors;
    count.first_layer = std::min(count.first_layer, layer_of(spec.name, layers));
  }
  return count;
}

}  // namespace qkr
