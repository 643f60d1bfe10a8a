#include "trainer/restore/restore.h"

#include <ATen/ATen.h>

#include "ops/procrustes.h"

namespace qkr {
namespace {

using at::Tensor;

// A value that waits to be copied into a live tensor.
struct Write {
  std::string name;
  Tensor value;
};

double frobenius(const Tensor& t) { return at::linalg_vector_norm(t.to(at::kDouble)).item<double>(); }

// ||a - b|| / ||base||; 0 if nothing moved, even from zero.
double relative_distance(const Tensor& a, const Tensor& b, const Tensor& base) {
  const double distance = frobenius(a.to(at::kDouble) - b.to(at::kDouble));
  return distance == 0 ? 0 : distance / frobenius(base);
}

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

void check_finite(const std::string& when, const std::string& name, const Tensor& t) {
  if (!t.isfinite().all().item<bool>())
    fail_run("restore: tensor ", name, " must be finite ", when, ", got NaN or Inf");
}

// One layer on the device of its weights.
class LayerRestorer {
 public:
  LayerRestorer(const NamedTensors& weights, const Snapshot& snapshot, const SoftmaxLayer& layer)
      : layer_(layer),
        tensors_(snapshot.tensors()),
        q_post_(weights.at(layer.q_weight).detach()),
        k_post_(weights.at(layer.k_weight).detach()) {
    q_pre_ = tensors_.at(layer.q_weight).to(q_post_.device());
    k_pre_ = tensors_.at(layer.k_weight).to(q_post_.device());
    report.layer = layer.layer;
    report.q_change = relative_distance(q_post_, q_pre_, q_pre_);
    report.k_change = relative_distance(k_post_, k_pre_, k_pre_);
    report.residual_before = relative_distance(w_pre(), w_post(), w_post());
  }

  void plain() {
    report.residual_after = report.residual_before;
    write(layer_.q_weight, q_pre_);
    write(layer_.k_weight, k_pre_);
  }

  void procrustes(double anchor) {
    check_finite("after the fine-tuning", layer_.q_weight, q_post_);
    check_finite("after the fine-tuning", layer_.k_weight, k_post_);
    check_finite("in the snapshot", layer_.q_weight, q_pre_);
    check_finite("in the snapshot", layer_.k_weight, k_pre_);
    const Tensor pre = w_pre(), post = w_post();  // [(H + KV) D, d]
    const auto [restored, r, certificate] = qkr::procrustes(pre, post, anchor);
    const double mean_diagonal = (pre.to(at::kDouble) * post.to(at::kDouble)).sum(0).abs().mean().item<double>();
    report.mu = anchor * mean_diagonal;
    report.rotation = frobenius(r - at::eye(r.size(0), r.options())) / std::sqrt(r.size(0));
    report.residual_after = relative_distance(restored, post, post);
    report.certificate = read_certificate(certificate);
    write(layer_.q_weight, restored.narrow(0, 0, q_pre_.size(0)));
    write(layer_.k_weight, restored.narrow(0, q_pre_.size(0), k_pre_.size(0)));
  }

  // As it was; "" is a part that the layer has not.
  void put_back(const std::string& name) {
    if (!name.empty()) write(name, tensors_.at(name));
  }

  LayerReport report;
  std::vector<Write> writes;

 private:
  Tensor w_pre() const { return at::cat({q_pre_, k_pre_}); }
  Tensor w_post() const { return at::cat({q_post_, k_post_}); }

  void write(const std::string& name, const Tensor& value) {
    report.written.push_back(name);
    writes.push_back({name, value});
  }

  const SoftmaxLayer& layer_;
  const NamedTensors& tensors_;
  Tensor q_post_, k_post_, q_pre_, k_pre_;
};

nlohmann::json certificate_json(const PolarCertificate& c) {
  return {{"orthogonality", c.orthogonality},
          {"skew", c.skew},
          {"cholesky", c.cholesky},
          {"iterations", c.iterations},
          {"gap_bound", c.gap_bound},
          {"fallback", c.fallback},
          {"kappa", c.kappa},
          {"zero_matrix", c.zero_matrix},
          {"rank_deficient", c.rank_deficient}};
}

// nlohmann keeps NaN and Inf in memory and writes them as null; here they are null at once, so that a reader of either sees one.
void drop_non_finite(nlohmann::json& value) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) value = nullptr;
  if (value.is_structured()) {
    for (auto& item : value) drop_non_finite(item);
  }
}

}  // namespace

RestoreReport restore(NamedTensors& weights, const Snapshot& snapshot, const RestoreConfigSection& section) {
  const bool plain = section.method == "plain", procrustes = section.method == "procrustes";
  if (!plain && !procrustes && section.method != "none") {
    fail("qk_restore.method must be none, plain or procrustes, got ", section.method);
  }
  check_same(weights, snapshot);
  at::NoGradGuard no_grad;
  RestoreReport report{section.method, section.anchor, {}, snapshot.digest(), {}};
  std::vector<Write> writes;
  for (const SoftmaxLayer& layer : snapshot.layers()) {
    LayerRestorer one(weights, snapshot, layer);
    if (plain) one.plain();
    if (procrustes) one.procrustes(section.anchor);
    if ((plain || procrustes) && section.biases) {
      one.put_back(layer.q_bias);
      one.put_back(layer.k_bias);
    }
    if ((plain || procrustes) && section.qk_norm) {
      one.put_back(layer.q_norm);
      one.put_back(layer.k_norm);
    }
    report.layers.push_back(std::move(one.report));
    writes.insert(writes.end(), one.writes.begin(), one.writes.end());
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

nlohmann::json to_json(const RestoreReport& report) {
  nlohmann::json layers = nlohmann::json::array();
  for (const LayerReport& layer : report.layers) {
    nlohmann::json row = {{"layer", layer.layer},
                          {"q_change", layer.q_change},
                          {"k_change", layer.k_change},
                          {"residual_before", layer.residual_before},
                          {"residual_after", layer.residual_after},
                          {"rotation", layer.rotation},
                          {"mu", nullptr},
                          {"certificate", nullptr},
                          {"written", layer.written}};
    if (layer.mu) row["mu"] = *layer.mu;
    if (layer.certificate) row["certificate"] = certificate_json(*layer.certificate);
    layers.push_back(std::move(row));
  }
  nlohmann::json out = {{"method", report.method},
                        {"anchor", report.anchor},
                        {"layers", std::move(layers)},
                        {"snapshot_sha256", report.snapshot_sha256},
                        {"restored_sha256", report.restored_sha256}};
  drop_non_finite(out);
  return out;
}

}  // namespace qkr
