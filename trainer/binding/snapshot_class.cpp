#include <nlohmann/json.hpp>

#include "trainer/binding/classes.h"
#include "trainer/binding/options.h"
#include "trainer/model/architecture.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

NamedTensors named(const std::vector<std::string>& names, const std::vector<at::Tensor>& tensors) {
  if (names.size() != tensors.size()) fail("names: must be one for each tensor, got ", names.size(), " for ", tensors.size());
  NamedTensors weights;
  for (size_t i = 0; i < names.size(); ++i) {
    if (weights.contains(names[i])) fail("names: must differ, got ", names[i], " twice");
    weights.set(names[i], tensors[i]);
  }
  return weights;
}

}  // namespace

SnapshotClass::SnapshotClass(const std::vector<std::string>& names, const std::vector<at::Tensor>& tensors, const std::string& layers,
                             const std::string& options)
    : snapshot_(take_snapshot(named(names, tensors), layers_to_keep(layers_from_json(layers), restore_options(options)))) {}

std::string SnapshotClass::restore(const std::vector<std::string>& names, const std::vector<at::Tensor>& tensors,
                                   const std::string& options) const {
  NamedTensors weights = named(names, tensors);
  return to_json(qkr::restore(weights, snapshot_, restore_options(options))).dump();
}

std::string SnapshotClass::refusal(const std::string& options) const {
  return in_option_words(restore_refusal(snapshot_, restore_options(options)));
}

std::vector<std::string> SnapshotClass::names() const {
  std::vector<std::string> names;
  for (const auto& entry : snapshot_.tensors()) names.push_back(entry.first);
  return names;
}

std::vector<at::Tensor> SnapshotClass::tensors() const {
  std::vector<at::Tensor> tensors;
  for (const auto& entry : snapshot_.tensors()) tensors.push_back(entry.second);
  return tensors;
}

std::string mixer_layers_json(const std::string& config_json) {
  return layers_to_json(mixer_layers(parse_architecture(config_json, "config.json")));
}

}  // namespace qkr
