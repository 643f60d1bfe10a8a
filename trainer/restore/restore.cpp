#include "trainer/restore/restore.h"

#include <ATen/ATen.h>

#include <charconv>

#include "trainer/restore/candidates.h"
#include "trainer/restore/head_gauge.h"
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

bool is_qk_pro(const std::string& method) { return method == "qk-pro" || method == "qk-pro-head" || method == "qk-pro-bilinear"; }

std::string method_refusal(const RestoreConfigSection& section) {
  const std::string& method = section.method;
  const bool of_the_pair = method == "procrustes-head" || is_qk_pro(method);
  if (of_the_pair && section.parts != "qk") return concat("qk_restore.parts must be qk where the method is ", method, ", got ", section.parts);
  if (method == "procrustes" && (section.parts == "o" || section.parts == "norms")) {
    return concat("qk_restore.parts must hold a weight that reads the layer's input where the method is procrustes, got ", section.parts);
  }
  if (of_the_pair || method == "none" || is_plain(method) || method == "procrustes" || blend_of(method)) return "";
  if (method == "auto") return "qk_restore.method auto must have come to one of its candidates before anything can be restored, got auto";
  return concat("qk_restore.method must be none, plain, procrustes, procrustes-head, qk-pro, qk-pro-head, qk-pro-bilinear, lerp:A, q, k or "
                "qkv, got ", method);
}

std::string head_refusal(const MixerLayer& layer, const NamedTensors& tensors, bool biases) {
  const auto gain = [&](MixerPart part) {
    const std::string name = layer.name_of(part, MixerRole::kGain);
    return name.empty() ? Tensor() : tensors.at(name);
  };
  std::string reason = gauge_refusal(layer, gain(MixerPart::kQ), gain(MixerPart::kK));
  for (const MixerPart part : {MixerPart::kQ, MixerPart::kK}) {
    if (reason.empty() && !biases && !layer.name_of(part, MixerRole::kBias).empty()) {
      reason = concat("layer ", layer.layer, " has q and k biases, which have to turn with their weights, and qk_restore.biases is false");
    }
  }
  return reason.empty() ? "" : "qk_restore.method: procrustes-head must not move the attention logits, but " + reason;
}

void apply(LayerRestorer& layer, const std::string& method) {
  if (method == "none") return;
  if (layer.is_unmoved()) return layer.unmoved();
  if (is_plain(method)) layer.plain();
  if (method == "procrustes") layer.procrustes();
  if (method == "procrustes-head") layer.procrustes_head();
  if (is_qk_pro(method)) layer.qk_pro();
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

int64_t restore_interval(const RestoreConfigSection& section) {
  const std::string stem = "every ";
  if (section.at.compare(0, stem.size(), stem) != 0) return 0;
  int64_t every = 0;
  const char* const end = section.at.data() + section.at.size();
  const auto [stop, error] = std::from_chars(section.at.data() + stem.size(), end, every);
  if (stop != end || error != std::errc() || every < 1) fail("qk_restore.at: every N must have a whole number N >= 1, got ", section.at);
  return every;
}

double ridge_of(const RestoreConfigSection& section) {
  return section.ridge.value_or(section.method == "qk-pro-bilinear" ? 0.1 : 1e-6);
}

std::string restore_refusal(const Snapshot& snapshot, const RestoreConfigSection& section) {
  std::string reason = method_refusal(section);
  if (reason.empty()) reason = selection_refusal(snapshot.layers(), section, "the snapshot");
  if (section.method != "procrustes-head") return reason;
  for (const MixerLayer& layer : snapshot.layers()) {
    if (reason.empty() && selects_layer(layer, section)) reason = head_refusal(layer, snapshot.tensors(), section.biases);
  }
  return reason;
}

void check_restorable(const Snapshot& snapshot, const RestoreConfigSection& section) {
  std::string first;
  for (const RestoreConfigSection& one : possible_sections(section)) {
    if (section.method == "auto" && one.method == "none") continue;
    const std::string reason = restore_refusal(snapshot, one);
    if (reason.empty()) return;
    if (first.empty()) first = reason;
  }
  if (!first.empty()) fail(first);
}

RestoreReport restore(NamedTensors& weights, const Snapshot& snapshot, const RestoreConfigSection& section, Rotations* rotations) {
  if (const std::string reason = restore_refusal(snapshot, section); !reason.empty()) fail(reason);
  check_same(weights, snapshot);
  at::NoGradGuard no_grad;
  RestoreReport report;
  report.method = section.method;
  report.layer_choice = section.layers;
  report.parts = selected_parts(section);
  if (section.method == "procrustes") report.anchor = section.anchor;
  if (is_qk_pro(section.method)) report.ridge = ridge_of(section);
  report.blend = blend_of(section.method);
  report.snapshot_sha256 = snapshot.digest();
  std::vector<Write> writes;
  for (const MixerLayer& layer : snapshot.layers()) {
    if (!selects_layer(layer, section)) continue;
    LayerRestorer one(weights, snapshot, layer, section);
    apply(one, section.method);
    const std::vector<Write> found = one.finish();
    report.layers.push_back(std::move(one.report));
    if (rotations != nullptr) rotations->merge(one.rotations);
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
