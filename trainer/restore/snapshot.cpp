#include "trainer/restore/snapshot.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "trainer/core/digest.h"

namespace qkr {
namespace {

void check_layer(const MixerLayer& layer, const NamedTensors& tensors) {
  const at::Tensor* first = nullptr;  // what reads the layer's input has its columns
  std::string first_name;
  for (const MixerTensor& tensor : layer.tensors) {
    const at::Tensor& t = tensors.at(tensor.name);
    if (tensor.role != MixerRole::kWeight) continue;
    if (t.dim() != 2) fail("snapshot: ", tensor.name, " must be a matrix [rows, d], got shape ", t.sizes());
    if (tensor.part == MixerPart::kO) continue;
    if (first == nullptr) {
      first = &t;
      first_name = tensor.name;
    } else if (t.size(1) != first->size(1) || t.scalar_type() != first->scalar_type()) {
      fail("snapshot: ", tensor.name, " must have the columns and dtype of ", first_name, ", ", first->size(1), " and ",
           first->scalar_type(), ", got ", t.size(1), " and ", t.scalar_type());
    }
  }
  const int64_t rows[] = {layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim};
  for (const MixerPart part : {MixerPart::kQ, MixerPart::kK}) {
    const std::string name = layer.name_of(part, MixerRole::kWeight);
    const int64_t want = rows[part == MixerPart::kK ? 1 : 0];
    if (!name.empty() && tensors.at(name).size(0) != want) {
      fail("snapshot: ", name, " must have ", want, " rows, heads times head_dim, got ", tensors.at(name).size(0));
    }
  }
}

}  // namespace

Snapshot::Snapshot(NamedTensors tensors, std::vector<MixerLayer> layers, std::map<std::string, std::string> metadata)
    : tensors_(std::move(tensors)), layers_(std::move(layers)), metadata_(std::move(metadata)) {
  std::set<std::string> listed;
  for (const MixerLayer& layer : layers_) {
    for (const MixerTensor& tensor : layer.tensors) {
      const std::string& name = tensor.name;
      if (!listed.insert(name).second) fail("snapshot: tensor ", name, " must belong to one layer, got it twice");
      if (!tensors_.contains(name)) fail("snapshot: tensor ", name, " of layer ", layer.layer, " is missing");
    }
    check_layer(layer, tensors_);
  }
  for (const auto& [name, tensor] : tensors_) {
    if (listed.count(name) == 0)
      fail("snapshot: tensor ", name, " must belong to a layer, got none that lists it");
    if (!tensor.is_cpu() || !tensor.is_contiguous())
      fail("snapshot: tensor ", name, " must be dense and on the CPU, got ", tensor.device());
  }
}

std::string Snapshot::digest() const { return tensors_digest(tensors_); }

Snapshot take_snapshot(const NamedTensors& weights, const std::vector<MixerLayer>& layers,
                       std::map<std::string, std::string> metadata) {
  NamedTensors kept;
  for (const MixerLayer& layer : layers) {
    for (const MixerTensor& tensor : layer.tensors) {
      const std::string& name = tensor.name;
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
