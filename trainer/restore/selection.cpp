#include "trainer/restore/selection.h"

#include <algorithm>
#include <set>

#include "trainer/core/error.h"
#include "trainer/restore/candidates.h"

namespace qkr {
namespace {

const char* part_name(MixerPart part) {
  switch (part) {
    case MixerPart::kQ: return "q";
    case MixerPart::kK: return "k";
    case MixerPart::kV: return "v";
    case MixerPart::kO: return "o";
    case MixerPart::kGate: return "gates";
  }
  return "";
}

bool holds_part(const std::string& parts, MixerPart part) {
  if (parts == "mixer") return true;
  if (parts == "gates" || part == MixerPart::kGate) return parts == "gates" && part == MixerPart::kGate;
  return parts != "norms" && parts.find(part_name(part)) != std::string::npos;  // q, k, qk, qkv, v, o
}

bool is_routing(const MixerTensor& tensor) { return tensor.part == MixerPart::kQ || tensor.part == MixerPart::kK; }

bool goes_back(const MixerTensor& tensor, const RestoreConfigSection& section) {
  const std::string parts = selected_parts(section);
  if (tensor.role == MixerRole::kGain) {
    if (parts == "norms" || parts == "mixer") return true;
    return section.qk_norm && is_routing(tensor) && holds_part(parts, tensor.part);
  }
  return holds_part(parts, tensor.part) && (tensor.role == MixerRole::kWeight || section.biases);
}

// Every mixer has these; gates and norms are an architecture's choice.
std::vector<MixerPart> parts_needed(const std::string& parts) {
  std::vector<MixerPart> needed;
  for (const MixerPart part : {MixerPart::kQ, MixerPart::kK, MixerPart::kV, MixerPart::kO}) {
    if (holds_part(parts, part)) needed.push_back(part);
  }
  return needed;
}

std::string layers_text(const LayerChoice& choice) { return choice.word == "all" ? "all layers" : choice.word + " layers"; }

}  // namespace

bool selects_layer(const MixerLayer& layer, const RestoreConfigSection& section) {
  const LayerChoice& choice = section.layers;
  if (choice.word.empty()) return std::find(choice.list.begin(), choice.list.end(), layer.layer) != choice.list.end();
  return choice.word == "all" || layer.softmax == (choice.word == "softmax");
}

std::string selected_parts(const RestoreConfigSection& section) {
  const bool control = section.method == "q" || section.method == "k" || section.method == "qkv";
  return control ? section.method : section.parts;
}

std::vector<MixerTensor> selected_tensors(const MixerLayer& layer, const RestoreConfigSection& section) {
  std::vector<MixerTensor> selected;
  for (const MixerTensor& tensor : layer.tensors) {
    if (goes_back(tensor, section)) selected.push_back(tensor);
  }
  return selected;
}

std::vector<MixerTensor> selected_weights(const MixerLayer& layer, const RestoreConfigSection& section) {
  const MixerRole role = selected_parts(section) == "norms" ? MixerRole::kGain : MixerRole::kWeight;
  std::vector<MixerTensor> selected;
  for (const MixerTensor& tensor : selected_tensors(layer, section)) {
    if (tensor.role == role) selected.push_back(tensor);
  }
  return selected;
}

std::string selection_refusal(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section, const std::string& what) {
  if (section.method == "none") return "";
  for (const int64_t number : section.layers.list) {
    if (std::none_of(layers.begin(), layers.end(), [&](const MixerLayer& layer) { return layer.layer == number; })) {
      return concat("qk_restore.layers: must name layers of ", what, ", got ", number);
    }
  }
  const std::string parts = selected_parts(section);
  bool any_layer = false, any_tensor = false;
  for (const MixerLayer& layer : layers) {
    if (!selects_layer(layer, section)) continue;
    any_layer = true;
    for (const MixerPart part : parts_needed(parts)) {
      if (layer.name_of(part, MixerRole::kWeight).empty()) {
        return concat("qk_restore.parts: ", parts, " must be in every layer of ", what, ", got no ", part_name(part), " weight in layer ",
                      layer.layer);
      }
    }
    any_tensor = any_tensor || !selected_weights(layer, section).empty();
  }
  if (!any_layer) return concat("qk_restore.layers: ", what, " must have ", layers_text(section.layers), ", got none");
  return any_tensor ? "" : concat("qk_restore.parts: a selected layer of ", what, " must have ", parts, ", got none");
}

void check_selection(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section, const std::string& what) {
  std::string first;
  for (const RestoreConfigSection& one : possible_sections(section)) {
    if (section.method == "auto" && one.method == "none") continue;
    const std::string reason = selection_refusal(layers, one, what);
    if (reason.empty()) return;
    if (first.empty()) first = reason;
  }
  if (!first.empty()) fail(first);
}

std::vector<MixerLayer> layers_to_keep(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section) {
  check_selection(layers, section, "the model");
  std::vector<RestoreConfigSection> sections = possible_sections(section);
  std::erase_if(sections, [&](const RestoreConfigSection& one) {
    return one.method == "none" || !selection_refusal(layers, one, "the model").empty();
  });
  std::vector<MixerLayer> kept;
  for (const MixerLayer& layer : layers) {
    MixerLayer one = layer;
    const auto unneeded = [&](const MixerTensor& tensor) {
      if (layer.softmax && is_routing(tensor)) return false;
      return std::none_of(sections.begin(), sections.end(), [&](const RestoreConfigSection& some) {
        return selects_layer(layer, some) && (goes_back(tensor, some) || is_routing(tensor));
      });
    };
    one.tensors.erase(std::remove_if(one.tensors.begin(), one.tensors.end(), unneeded), one.tensors.end());
    if (!one.tensors.empty()) kept.push_back(std::move(one));
  }
  return kept;
}

std::vector<MixerLayer> layers_stored(const std::vector<MixerLayer>& layers, const RestoreConfigSection& section,
                                      const std::vector<std::string>& names, const std::string& file) {
  const std::set<std::string> stored(names.begin(), names.end());
  for (const MixerLayer& layer : layers_to_keep(layers, section)) {
    for (const MixerTensor& tensor : layer.tensors) {
      if (stored.count(tensor.name) == 0) {
        fail(file, ": must hold what qk_restore selects, got no ", tensor.name, ", which the first start did not keep");
      }
    }
  }
  std::vector<MixerLayer> kept;
  for (MixerLayer layer : layers) {
    const auto absent = [&](const MixerTensor& tensor) { return stored.count(tensor.name) == 0; };
    layer.tensors.erase(std::remove_if(layer.tensors.begin(), layer.tensors.end(), absent), layer.tensors.end());
    if (!layer.tensors.empty()) kept.push_back(std::move(layer));
  }
  return kept;
}

}  // namespace qkr
