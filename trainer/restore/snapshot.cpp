#include "trainer/restore/snapshot.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "trainer/core/digest.h"

namespace qkr {
namespace {

// The names that a layer has, in a fixed order.
std::vector<std::string> names_of(const SoftmaxLayer& layer) {
  std::vector<std::string> names;
  for (const std::string* name :
       {&layer.q_weight, &layer.k_weight, &layer.q_bias, &layer.k_bias, &layer.q_norm, &layer.k_norm}) {
    if (!name->empty()) names.push_back(*name);
  }
  return names;
}

void check_layer(const SoftmaxLayer& layer, const NamedTensors& tensors) {
  if (layer.q_weight.empty() || layer.k_weight.empty()) {
    fail("snapshot: layer ", layer.layer, " must name its q and k weights, got '", layer.q_weight, "' and '",
         layer.k_weight, "'");
  }
  const at::Tensor& q = tensors.at(layer.q_weight);
  const at::Tensor& k = tensors.at(layer.k_weight);
  for (const auto& [name, t] :
       {std::pair<const std::string&, const at::Tensor&>{layer.q_weight, q}, {layer.k_weight, k}}) {
    if (t.dim() != 2) fail("snapshot: ", name, " must be a matrix [rows, d], got shape ", t.sizes());
  }
  if (q.size(1) != k.size(1) || q.scalar_type() != k.scalar_type()) {
    fail("snapshot: ", layer.k_weight, " must have the columns and dtype of ", layer.q_weight, ", ", q.size(1), " and ",
         q.scalar_type(), ", got ", k.size(1), " and ", k.scalar_type());
  }
}

}  // namespace

Snapshot::Snapshot(NamedTensors tensors, std::vector<SoftmaxLayer> layers, std::map<std::string, std::string> metadata)
    : tensors_(std::move(tensors)), layers_(std::move(layers)), metadata_(std::move(metadata)) {
  std::set<std::string> listed;
  for (const SoftmaxLayer& layer : layers_) {
    for (const std::string& name : names_of(layer)) {
      if (!listed.insert(name).second) fail("snapshot: tensor ", name, " must belong to one layer, got it twice");
      if (!tensors_.contains(name)) fail("snapshot: tensor ", name, " of layer ", layer.layer, " is missing");
    }
    check_layer(layer, tensors_);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (listed.count(name) == 0)
      fail("snapshot: tensor ", name, " must belong to a softmax layer, got none that lists it");
    if (!tensor.is_cpu() || !tensor.is_contiguous())
      fail("snapshot: tensor ", name, " must be dense and on the CPU, got ", tensor.device());
  }
}

std::string Snapshot::digest() const { return tensors_digest(tensors_); }

Snapshot take_snapshot(const NamedTensors& weights, const std::vector<SoftmaxLayer>& layers,
                       std::map<std::string, std::string> metadata) {
  NamedTensors kept;
  for (const SoftmaxLayer& layer : layers) {
    for (const std::string& name : names_of(layer)) {
      const at::Tensor* live = weights.find(name);
      if (live == nullptr) fail("snapshot: tensor ", name, " of layer ", layer.layer, " is missing from the model");
      at::Tensor copy = at::empty(live->sizes(), live->options().device(at::kCPU).requires_grad(false));
      kept.set(name, copy.copy_(live->detach()));
    }
  }
  return Snapshot(std::move(kept), layers, std::move(metadata));
}

std::string tensors_digest(const NamedTensors& tensors) {
  std::vector<const NamedTensors::Entry*> entries;
  for (const auto& entry : tensors) entries.push_back(&entry);
  std::sort(entries.begin(), entries.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
  Sha256 sha;
  for (const auto* entry : entries) {
    const at::Tensor dense = entry->second.detach().cpu().contiguous();
    // NUL ends a name and a header, so that no two lists spell the same bytes
    sha.add(entry->first).add(std::string_view("\0", 1));
    sha.add(concat(dense.scalar_type(), dense.sizes())).add(std::string_view("\0", 1));
    sha.add(dense.const_data_ptr(), dense.nbytes());
  }
  return sha.hex();
}

}  // namespace qkr
