#include "trainer/restore/restore.h"

#include <ATen/ATen.h>

#include <charconv>

#include "trainer/restore/layer_restorer.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using at::Tensor;

void check_same(const NamedTensors& weights, const Snapshot& snapshot) {
  for (const auto& [name, kept] : snapshot.tensors()) {
    const Tensor* live = weights.find(name);
    if (live == nullptr) fail("restore: tensor ", name, " of the snapshot is missing from the model");
    if (live->sizes() != kept.sizes()) {
      fail("restore: tensor ", name, " must have the snapshot's shape ", kept.sizes(), ", got ", live->sizes());
    }
    if (live->scalar_type() != kept.scalar_type()) {
      fail("restore: tensor ", name, " must have the snapshot's dtype ", kept.scalar_type(), ", got ",
           live->scalar_type());
    }
  }
}

bool is_plain(const std::string& method) { return method == "plain" || method == "q" || method == "k" || method == "qkv"; }

void check_method(const std::string& method) {
  if (method == "none" || is_plain(method) || method == "procrustes" || blend_of(method)) return;
  fail("qk_restore.method must be none, plain, procrustes, lerp:A, q, k or qkv, got ", method);
}

void apply(LayerRestorer& layer, const std::string& method) {
  if (is_plain(method)) layer.plain();
  if (method == "procrustes") layer.procrustes();
  if (const std::optional<double> share = blend_of(method)) layer.lerp(*share);
}

}  // namespace

std::optional<double> blend_of(const std::string& method) {
  const std::string stem = "lerp:";
  if (method.compare(0, stem.size(), stem) != 0) return std::nullopt;
  double share = 0;
  const char* const end = method.data() + method.size();
  const auto [stop, error] = std::from_chars(method.data() + stem.size(), end, share);
  if (stop != end || error != std::errc() || !(share >= 0 && share <= 1)) {
    fail("qk_restore.method: lerp:A must have a number A from 0 to 1, got ", method);
  }
  return share;
}

RestoreReport restore(NamedTensors& weights, const Snapshot& snapshot, const RestoreConfigSection& section) {
  check_method(section.method);
  check_selection(snapshot.layers(), section, "the snapshot");
  check_same(weights, snapshot);
  at::NoGradGuard no_grad;
  RestoreReport report;
  report.method = section.method;
  report.layer_choice = section.layers;
  report.parts = selected_parts(section);
  if (section.method == "procrustes") report.anchor = section.anchor;
  report.blend = blend_of(section.method);
  report.snapshot_sha256 = snapshot.digest();
  std::vector<Write> writes;
  for (const MixerLayer& layer : snapshot.layers()) {
    if (!selects_layer(layer, section)) continue;
    LayerRestorer one(weights, snapshot, layer, section);
    apply(one, section.method);
    const std::vector<Write> found = one.finish();
    report.layers.push_back(std::move(one.report));
    writes.insert(writes.end(), found.begin(), found.end());
  }
  NamedTensors written;
  for (const Write& write : writes) {
    Tensor live = weights.at(write.name);
    live.copy_(write.value);
    written.set(write.name, live);
  }
  report.restored_sha256 = tensors_digest(written);
  return report;
}

}  // namespace qkr
