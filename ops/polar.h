// The polar factor: the orthogonal matrix nearest to a square one, with a certificate that it is.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <tuple>

namespace qkr {

// Columns of a certificate, which describes the fp64 factor before r is rounded to m's dtype. With M = m + the anchor term,
// R = r, H = R^T M, and delta = n eps ||M||_F (eps of fp64):
//   nuclear_norm(M) - tr(R^T M) <= 2 n delta + sqrt(n) ||H - H^T||_F   if H + delta I has a Cholesky factor,
// so a small gap bound proves that no orthogonal matrix is nearer to M, signs of the singular directions included.
enum PolarColumn : int64_t {
  kPolarOrthogonality = 0,  // ||R^T R - I||_F / sqrt(n)
  kPolarSkew = 1,           // ||H - H^T||_F / ||M||_F
  kPolarCholesky = 2,       // 1: sym(H) + delta I factored, else 0
  kPolarIterations = 3,     // Newton-Schulz steps; 0 where the SVD was the method
  kPolarGapBound = 4,       // the bound above over tr H; infinite without the Cholesky factor
  kPolarFallback = 5,       // 1: the iteration did not certify, this matrix went to the SVD
  kPolarKappa = 6,          // condition number of M, an estimate (a factor of 2) that saturates near 1e13; NaN if unknown
  kPolarFlags = 7,  // sum of PolarFlag
  kPolarColumns = 8,
};

enum PolarFlag : int64_t {
  kPolarZeroMatrix = 1,     // M = 0, R = I
  kPolarRankDeficient = 2,  // R is not unique: on the null space it is the choice nearest to I
};

// One row of a certificate in words.
struct PolarCertificate {
  double orthogonality, skew;
  bool cholesky;
  int64_t iterations;
  double gap_bound;  // relative
  bool fallback;
  double kappa;
  bool zero_matrix, rank_deficient;
};
PolarCertificate read_certificate(const at::Tensor& row);  // [8] float64, any device

// r = the polar factor of M = m + anchor * mean|diag m| * I, for each matrix; det r has the sign of det M. On the CPU by
// LAPACK's SVD, on CUDA by a certified Newton-Schulz iteration in fp64, one block a matrix up to n = 128 (csrc/polar) and
// matrix products above (ops/polar_iteration.h), with cuSOLVER's SVD for a matrix that fails. CUDA calls wait for the device. Deterministic; no derivative.
// Throws if m holds NaN or Inf, naming the matrix.
std::tuple<at::Tensor, at::Tensor>  // r [..., n, n] of m's dtype; certificate [..., 8] float64
polar(const at::Tensor& m,          // [..., n, n] fp32 or fp64
      double anchor);               // >= 0

}  // namespace qkr
