// procrustes() on W_Q over W_K of HypeNet's softmax layers, against the same thing written with Torch in fp32.
#include "ops/procrustes.h"

#include "tests/bench/matrices.h"
#include "tests/bench/support.h"
#include "trainer/core/error.h"

namespace qkr::bench {
namespace {

using at::Tensor;

constexpr double kAnchor = 0.01;  // the default of the configuration

struct Problem {
  std::string name;
  int64_t layers, rows, d;
  bool has_default_peer;  // where the default driver takes less than 3 s
};

struct Layer {
  Tensor before, after;  // [rows, d] bf16
};

// {restored, R}.
std::pair<Tensor, Tensor> by_torch(const Layer& layer, const std::string& driver) {
  const Tensor before = layer.before.to(at::kFloat);
  Tensor m = at::mm(before.t(), layer.after.to(at::kFloat));
  const Tensor mu = kAnchor * m.diagonal().abs().mean();
  m.diagonal().add_(mu);
  const Tensor r = polar_by_svd(m, driver);
  return {at::mm(before, r).to(layer.before.scalar_type()), r};
}

// The anchored matrix in fp64, from the operator's definition.
Tensor matrix(const Layer& layer) {
  const Tensor m = at::mm(layer.before.to(at::kDouble).t(), layer.after.to(at::kDouble));
  return m + kAnchor * m.diagonal().abs().mean() * at::eye(m.size(0), m.options());
}

Accuracy ours(const Layer& layer, const Tensor& reference) {
  const auto [restored, r, certificate] = procrustes(layer.before, layer.after, kAnchor);
  const CertificateSummary c = summary(certificate);
  bool good = c.gap <= 1e-6 && orthogonality(r) <= 1e-12;
  const double rounding = at::linalg_vector_norm(restored.to(at::kDouble) - at::mm(layer.before.to(at::kDouble), r)).item<double>() /
                          at::linalg_vector_norm(restored, 2, {0, 1}, false, at::kDouble).item<double>();
  good = good && rounding <= 2e-3;  // of bf16: at most 2^-8 / 2 an element
  if (reference.defined()) good = good && distance(r, reference) <= 1e-8 * (10 + c.kappa);  // M is summed in fp32 on CUDA
  return {factor_text(r, reference) + ", " + c.text, good};
}

Contender peer(const std::string& name, const std::string& driver, const std::vector<Layer>& layers, const Tensor& reference) {
  return {name,
          [=] {
            for (const Layer& layer : layers) by_torch(layer, driver);
          },
          [=] { return Accuracy{factor_text(by_torch(layers.front(), driver).second, reference)}; }};
}

// What is done in fp64: W R, and the products of polar(), two a step and two for the certificate. W^T W' is in bf16, thirteen
// times as fast, and left out.
double operations(const Problem& p, double steps) {
  const double d = static_cast<double>(p.d), rows = static_cast<double>(p.rows);
  return static_cast<double>(p.layers) * (2 * rows * d * d + 4 * d * d * d * (steps + 1));
}

Case make(const Problem& p) {
  std::vector<Layer> layers;
  for (int64_t i = 0; i < p.layers; ++i) {
    const auto [before, after] = tuned_pair(p.rows, p.d, at::kBFloat16);
    layers.push_back({before, after});
  }
  const Layer& first = layers.front();
  Tensor reference = p.layers == 1 ? reference_factors(matrix(first)) : Tensor();
  const auto [restored, r, certificate] = procrustes(first.before, first.after, kAnchor);
  const auto run = [layers] {
    for (const Layer& layer : layers) procrustes(layer.before, layer.after, kAnchor);
  };
  Case c{{Limit::kFp64, operations(p, summary(certificate).steps)},
         {{"ours", run, [first, reference] { return ours(first, reference); }}}};
  if (!reference.defined()) reference = r;
  if (on_gpu()) c.contenders.push_back(peer("gesvda", "gesvda", layers, reference));
  if (p.has_default_peer) c.contenders.push_back(peer(on_gpu() ? "default" : "gesdd", "", layers, reference));
  return c;
}

}  // namespace

QKR_BENCH(procrustes) {
  const std::vector<Problem> problems = on_gpu() ? std::vector<Problem>{{"2B, a layer", 1, 3072, 2048, true},
                                                                        {"5B, a layer", 1, 5120, 2560, true},
                                                                        {"9B, a layer", 1, 5120, 4096, true},
                                                                        {"2B, 7 layers", 7, 3072, 2048, false},
                                                                        {"5B, 9 layers", 9, 5120, 2560, false},
                                                                        {"9B, 9 layers", 9, 5120, 4096, false}}
                                                 : std::vector<Problem>{{"tiny", 1, 96, 64, true}};
  for (const Problem& p : problems) {
    add_case("procrustes", concat(p.name, ": ", p.layers, " x [", p.rows, ", ", p.d, "] bf16"), [p] { return make(p); });
  }
}

}  // namespace qkr::bench
