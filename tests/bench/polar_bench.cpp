// polar() against U V^T from at::linalg_svd: gesvda is the fast driver, the default is what a user gets who does not know it.
#include "ops/polar.h"

#include "tests/bench/matrices.h"
#include "tests/bench/support.h"
#include "trainer/core/error.h"

namespace qkr::bench {
namespace {

using at::Tensor;

struct Problem {
  int64_t batch, n;
  bool has_default_peer;  // where the default driver takes less than 3 s
};

// Products that a cubic step and the certificate take, two each, symmetry not used: what an own kernel saves of them shows as a
// higher share.
double operations(const Problem& p, double steps) {
  return 4.0 * p.n * p.n * p.n * (steps + static_cast<double>(p.batch));
}

Accuracy ours(const Tensor& m, const Tensor& reference) {
  const auto [r, certificate] = polar(m, 0);
  const CertificateSummary c = summary(certificate);
  const bool fp32 = m.scalar_type() == at::kFloat;  // r is rounded to it
  bool good = c.gap <= 1e-6 && orthogonality(r) <= (fp32 ? 1e-6 : 1e-12);
  if (reference.defined()) good = good && distance(r, reference) <= 1e-14 * (10 + c.kappa) + (fp32 ? 1e-6 : 0);
  return {factor_text(r, reference) + ", " + c.text, good};
}

Contender svd(const std::string& name, const std::string& driver, const Tensor& m, const Tensor& reference) {
  return {name, [=] { polar_by_svd(m, driver); }, [=] { return Accuracy{factor_text(polar_by_svd(m, driver), reference)}; }};
}

Case make(const Problem& p, const Tensor& m) {
  const auto [r, certificate] = polar(m, 0);
  Tensor reference = reference_factors(m);
  Case c{{Limit::kFp64, operations(p, summary(certificate).steps)},
         {{"ours", [m] { polar(m, 0); }, [m, reference] { return ours(m, reference); }}}};
  if (!reference.defined()) reference = r;  // the peers' error is then their distance from ours, whose own is certified
  if (on_gpu()) c.contenders.push_back(svd("gesvda", "gesvda", m, reference));
  if (p.has_default_peer) c.contenders.push_back(svd(on_gpu() ? "default" : "gesdd", "", m, reference));
  return c;
}

}  // namespace

QKR_BENCH(polar) {
  const std::vector<Problem> problems =
      on_gpu() ? std::vector<Problem>{{72, 64, true}, {72, 128, true}, {2304, 128, false}, {1, 2048, true}, {1, 4096, true}, {9, 4096, false}}
               : std::vector<Problem>{{8, 32, true}, {2, 64, true}};
  for (const Problem& p : problems) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const std::string shape = concat(p.batch, " x ", p.n, "² ", type == at::kFloat ? "fp32" : "fp64");
      const bool has_default = p.has_default_peer && type == at::kFloat;
      const Problem problem{p.batch, p.n, has_default || !on_gpu()};
      add_case("polar", shape + " Gaussian", [=] { return make(problem, gaussian(problem.batch, problem.n, type)); });
      add_case("polar", shape + " W^T W'", [=] { return make(problem, correlated(problem.batch, problem.n, type)); });
    }
  }
}

}  // namespace qkr::bench
