#include "trainer/restore/layer_restorer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "ops/procrustes.h"
#include "trainer/restore/head_gauge.h"
#include "trainer/restore/lerp.h"
#include "trainer/restore/ridge.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

using at::Tensor;

double frobenius(const Tensor& t) { return at::linalg_vector_norm(t.to(at::kDouble)).item<double>(); }

// Squared distances and lengths, summed over tensors: ||a - b|| / ||base|| of all of them as one.
struct Distance {
  double moved = 0, length = 0;
  void add(const Tensor& a, const Tensor& b, const Tensor& base) {
    moved += std::pow(frobenius(a.to(at::kDouble) - b.to(at::kDouble)), 2);
    length += std::pow(frobenius(base), 2);
  }
  // 0 if nothing moved, even from zero.
  double relative() const { return moved == 0 ? 0 : std::sqrt(moved / length); }
};

std::string change_name(const MixerTensor& tensor) {
  if (tensor.role == MixerRole::kGain) return "norms";
  static const char* const kNames[] = {"q", "k", "v", "o", "gates"};
  return kNames[static_cast<int>(tensor.part)];
}

}  // namespace

LayerRestorer::LayerRestorer(const NamedTensors& weights, const Snapshot& snapshot, const MixerLayer& layer,
                             const RestoreConfigSection& section)
    : weights_(weights), kept_(snapshot.tensors()), layer_(layer), section_(section), selected_(selected_tensors(layer, section)) {
  report.layer = layer.layer;
  report.softmax = layer.softmax;
  measure_changes();
  Distance before;
  for (const MixerTensor& tensor : selected_weights(layer, section)) before.add(pre(tensor.name), post(tensor.name), post(tensor.name));
  report.residual_before = before.relative();
}

void LayerRestorer::measure_changes() {
  std::map<std::string, Distance> moved;
  for (const MixerTensor& tensor : layer_.tensors) {
    if (tensor.role == MixerRole::kBias) continue;
    const Tensor was = pre(tensor.name);
    moved[change_name(tensor)].add(post(tensor.name), was, was);
  }
  for (const auto& [part, distance] : moved) report.changes[part] = distance.relative();
}

Tensor LayerRestorer::pre(const std::string& name) const { return kept_.at(name).to(weights_.at(name).device()); }
Tensor LayerRestorer::post(const std::string& name) const { return weights_.at(name).detach(); }

void LayerRestorer::check_finite(const std::string& name) const {
  const auto check = [&](const Tensor& t, const char* when) {
    if (!t.isfinite().all().item<bool>()) fail_run("restore: tensor ", name, " must be finite ", when, ", got NaN or Inf");
  };
  check(post(name), "after the fine-tuning");
  check(pre(name), "in the snapshot");
}

void LayerRestorer::write(const std::string& name, const Tensor& value) {
  report.written.push_back(name);
  writes_.push_back({name, value});
}

bool LayerRestorer::is_written(const std::string& name) const {
  return std::any_of(writes_.begin(), writes_.end(), [&](const Write& one) { return one.name == name; });
}

void LayerRestorer::put_back_the_rest() {
  for (const MixerTensor& tensor : selected_) {
    if (!is_written(tensor.name)) write(tensor.name, pre(tensor.name));
  }
}

bool LayerRestorer::is_unmoved() const {
  return std::all_of(selected_.begin(), selected_.end(), [&](const MixerTensor& tensor) { return at::equal(pre(tensor.name), post(tensor.name)); });
}

// With R = I, and without the rounding of a product with it.
void LayerRestorer::unmoved() {
  report.unmoved = true;
  if (section_.method == "procrustes") {
    for (const std::string& name : turned_names()) rotations[name] = at::eye(post(name).size(1), post(name).options().dtype(at::kDouble));
    report.rotation = 0;
  }
  if (section_.method.compare(0, 6, "qk-pro") == 0) report.corrected = 0;
  put_back_the_rest();
}

void LayerRestorer::plain() { put_back_the_rest(); }

void LayerRestorer::lerp(double share) {
  for (const MixerTensor& tensor : selected_) write(tensor.name, lerp_weights(pre(tensor.name), post(tensor.name), share));
}

std::vector<std::string> LayerRestorer::turned_names() const {
  std::vector<std::string> names;
  for (const MixerTensor& tensor : selected_) {
    if (tensor.role == MixerRole::kWeight && tensor.part != MixerPart::kO) names.push_back(tensor.name);
  }
  return names;
}

// R turns the layer's input, so it acts on every selected matrix that reads it; W_O reads the heads, and goes back as it was.
void LayerRestorer::procrustes() {
  const std::vector<std::string> names = turned_names();
  std::vector<Tensor> stack_pre, stack_post;
  for (const std::string& name : names) {
    check_finite(name);
    stack_pre.push_back(pre(name));
    stack_post.push_back(post(name));
  }
  if (!names.empty()) {
    const Tensor was = at::cat(stack_pre), became = at::cat(stack_post);  // [rows, d]
    const auto [restored, r, certificate] = qkr::procrustes(was, became, section_.anchor);
    const double mean_diagonal = (was.to(at::kDouble) * became.to(at::kDouble)).sum(0).abs().mean().item<double>();
    report.mu = section_.anchor * mean_diagonal;
    report.rotation = frobenius(r - at::eye(r.size(0), r.options())) / std::sqrt(r.size(0));
    report.certificate = read_certificate(certificate);
    int64_t row = 0;
    for (size_t i = 0; i < names.size(); row += stack_pre[i++].size(0)) {
      write(names[i], restored.narrow(0, row, stack_pre[i].size(0)));
      rotations[names[i]] = r;
    }
  }
  put_back_the_rest();
}

bool LayerRestorer::has_bias_column() const {
  const auto has = [&](MixerPart part) { return !layer_.name_of(part, MixerRole::kBias).empty(); };
  return section_.biases && (has(MixerPart::kQ) || has(MixerPart::kK));
}

// W_Q or W_K in fp64, before or after the fine-tuning; with `bias` as one more column (zeros where there is none).
Tensor LayerRestorer::block(MixerPart part, bool tuned, bool bias) const {
  const auto read = [&](const std::string& name) {
    check_finite(name);
    return (tuned ? post(name) : pre(name)).to(at::kDouble);
  };
  const Tensor weight = read(layer_.name_of(part, MixerRole::kWeight));  // [rows, d]
  if (!bias) return weight;
  const std::string name = layer_.name_of(part, MixerRole::kBias);
  const Tensor column = name.empty() ? at::zeros({weight.size(0)}, weight.options()) : read(name);
  return at::cat({weight, column.unsqueeze(1)}, 1);  // [rows, d + 1]
}

// What block() read, changed: rounded once to the stored dtypes.
void LayerRestorer::write_block(MixerPart part, const Tensor& value) {
  const std::string weight = layer_.name_of(part, MixerRole::kWeight), bias = layer_.name_of(part, MixerRole::kBias);
  const int64_t d = kept_.at(weight).size(1);
  write(weight, round_once(value.narrow(1, 0, d).contiguous(), kept_.at(weight).scalar_type()));
  if (value.size(1) > d && !bias.empty()) write(bias, round_once(value.select(1, d).contiguous(), kept_.at(bias).scalar_type()));
}

// K goes back as it was. The forms on the input side do not touch biases; the one on the head side sees them as a column.
void LayerRestorer::qk_pro() {
  const bool by_head = section_.method == "qk-pro-bilinear";
  const bool bias = by_head && has_bias_column();
  const Tensor q_pre = block(MixerPart::kQ, false, bias), q_post = block(MixerPart::kQ, true, bias);
  const Tensor k_pre = block(MixerPart::kK, false, bias);
  const double ridge = ridge_of(section_);
  const RidgeResult result = by_head ? ridge_by_head(q_pre, q_post, k_pre, layer_.kv_heads, ridge)
                                     : ridge_by_input(q_pre, q_post, k_pre, section_.method == "qk-pro" ? 1 : layer_.kv_heads, ridge);
  Distance back;
  back.add(result.q, q_post, q_pre - q_post);
  report.corrected = back.relative();
  report.lambda_min = result.lambda.min().item<double>();
  report.lambda_max = result.lambda.max().item<double>();
  write_block(MixerPart::kQ, result.q);
  put_back_the_rest();
}

void LayerRestorer::procrustes_head() {
  const auto gain = [&](MixerPart part) {
    const std::string name = layer_.name_of(part, MixerRole::kGain);
    if (name.empty()) return Tensor();
    check_finite(name);
    return section_.qk_norm ? pre(name) : post(name);  // those that the restored layer has
  };
  const bool bias = has_bias_column();
  const Tensor q_pre = block(MixerPart::kQ, false, bias), k_pre = block(MixerPart::kK, false, bias);
  const HeadGauge gauge = head_gauge(layer_, gain(MixerPart::kQ), gain(MixerPart::kK));
  const HeadAlignment found = align_heads(q_pre, block(MixerPart::kQ, true, bias), k_pre, block(MixerPart::kK, true, bias),
                                          layer_.kv_heads, gauge);
  report.rotation = frobenius(found.a - at::eye(found.a.size(1), found.a.options())) / std::sqrt(found.a.size(0) * found.a.size(1));
  report.free_coordinates = gauge.free_coordinates;
  report.certificate = found.certificate;
  write_block(MixerPart::kQ, turn_heads(found.a, q_pre));
  write_block(MixerPart::kK, turn_heads(found.a, k_pre));
  put_back_the_rest();
}

std::vector<Write> LayerRestorer::finish() {
  Distance after;
  for (const MixerTensor& tensor : selected_weights(layer_, section_)) {
    const Tensor became = post(tensor.name);
    const auto found = std::find_if(writes_.begin(), writes_.end(), [&](const Write& one) { return one.name == tensor.name; });
    after.add(found == writes_.end() ? became : found->value, became, became);
  }
  report.residual_after = after.relative();
  return std::move(writes_);
}

}  // namespace qkr
