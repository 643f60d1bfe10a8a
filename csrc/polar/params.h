// The polar factor of small matrices: R orthogonal with M = R H, H symmetric positive semidefinite, by the scaled cubic
// Newton-Schulz iteration (Chen & Chow 2014)
//   X_0 = M / s,   X <- rho/2 (3 X - rho^2 X X^T X),   rho = sqrt(3 / (1 + l + l^2)),   all in fp64,
// with s = sqrt(||M^T M||_inf) >= sigma_max and l a guess of the smallest singular value of X. M = m + anchor * mean|diag m| * I.
//
// Note [A guess that mends itself]
// The best rho needs a lower bound l of the singular values. One is only known late: if e = ||X^T X - I||_F < 1, none is below
// sqrt(1 - e). So the iteration starts from a bold guess (10 steps fewer than from 1e-8), takes that bound once it is better, and
// where e shows that the guess was too bold it guesses again. A wrong guess costs steps and nothing else: f maps (0, 1] into
// itself whatever l was. The certificate, which is computed from M and R alone, does not depend on any of this.
#pragma once

#include <cmath>
#include <cstdint>

#include "csrc/core/host_device.h"

namespace qkr {

constexpr int kPolarHeadMaxN = 128;
constexpr int kPolarHeadColumns = 8;  // of a certificate: PolarColumn of ops/polar.h

// Flags of the kernel; the first two are PolarFlag of ops/polar.h.
constexpr int kPolarHeadZero = 1, kPolarHeadNotFinite = 8;

// What the schedule of rho is steered by.
struct PolarSchedule {
  static constexpr double kOrthogonal = 1e-13;        // stop at ||X^T X - I||_F <= kOrthogonal sqrt(n)
  static constexpr double kLargestRho = 1.69770248526;  // f(1) = 0.1: a smaller f(1) would lose large singular values to rounding
  static constexpr double kSecondGuess = 0.1;         // of l, where the first proved too bold
};

// rho of the next step, given e = ||X^T X - I||_F before it; moves l to the next X. root_n: sqrt(n).
QKR_HOST_DEVICE inline double polar_next_rho(double& l, double e, double root_n) {
  if (e < 1) l = fmax(l, sqrt(1 - e));
  if (l > 0.9 && e > fmax(0.7, 1.1 * root_n * (1 - l * l))) l = PolarSchedule::kSecondGuess;
  const double rho = fmin(PolarSchedule::kLargestRho, sqrt(3 / (1 + l + l * l)));
  const double f_l = 0.5 * rho * l * (3 - rho * rho * l * l), f_1 = 0.5 * rho * (3 - rho * rho);
  l = fmin(1.0, fmin(f_l, f_1));
  return rho;
}

template <class T>  // float or double
struct PolarHeadParams {
  const T* m = nullptr;           // [batch, n, n]
  T* r = nullptr;                 // [batch, n, n]
  double* certificate = nullptr;  // [batch, 8]; where the iteration did not converge, gap = infinity and Cholesky = 0
  int64_t batch = 0;
  int n = 0;  // 1 ... kPolarHeadMaxN
  double anchor = 0;
  double sigma_min = 0;  // first guess of l
  int max_steps = 0;
};

}  // namespace qkr
