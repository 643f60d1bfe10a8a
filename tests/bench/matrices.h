// Square matrices as restoring meets them, and what says how good a polar factor is.
#pragma once

#include <string>

#include "ops/polar.h"
#include "tests/bench/support.h"

namespace qkr::bench {

// Independent normal numbers: condition numbers near n, no structure.
at::Tensor gaussian(int64_t batch, int64_t n, at::ScalarType type);  // [batch, n, n], or [n, n] for a batch of one

// W^T W' with W [5n/4, n], columns of very different norms, and W' = W after a small change, as a projection and its tuned
// copy are: nearly symmetric, condition numbers 1e3 to 1e4.
at::Tensor correlated(int64_t batch, int64_t n, at::ScalarType type);

// W [rows, d] of that kind, and a tuned copy.
std::pair<at::Tensor, at::Tensor> tuned_pair(int64_t rows, int64_t d, at::ScalarType type);

// U V^T of at::linalg_svd, in m's dtype; driver "" is the default.
at::Tensor polar_by_svd(const at::Tensor& m, const std::string& driver);

// The factors of the first few matrices in fp64 through LAPACK or cuSOLVER's QR iteration; undefined where that takes too long.
at::Tensor reference_factors(const at::Tensor& m);  // [..., n, n] -> [few, n, n]

double orthogonality(const at::Tensor& r);                       // the worst ||R^T R - I||_F / sqrt(n)
double distance(const at::Tensor& r, const at::Tensor& others);  // the worst ||R - R'||_F / sqrt(n) of as many as there are in others

struct CertificateSummary {
  std::string text;   // "gap <= 2e-13, kappa 1e+03", and "3 by SVD" if the iteration did not do
  double gap, kappa;  // the worst
  double steps;       // summed
};
CertificateSummary summary(const at::Tensor& certificate);  // [..., 8]

// "orthogonality 1e-15, error 2e-15", of r against `reference`, which may be undefined.
std::string factor_text(const at::Tensor& r, const at::Tensor& reference);

}  // namespace qkr::bench
