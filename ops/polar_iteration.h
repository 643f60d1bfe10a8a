// The parts of polar() that are ATen code for any device; the backends differ in who makes an SVD and who is asked first.
// Source: Chen & Chow 2014, "A stable scaling of Newton-Schulz for improving the sign function computation of a Hermitian
// matrix" for the scaling; the certificate is Higham, "Functions of Matrices", ch. 8, with a computable gap.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <tuple>
#include <vector>

namespace qkr {

// {u, s, vh} with m = u diag(s) vh, s descending; m is one [n, n] fp64 matrix.
using SvdOfOne = std::function<std::tuple<at::Tensor, at::Tensor, at::Tensor>(const at::Tensor& m)>;

// What is left of a call after checks: the polar factor does not change when M is scaled.
struct PolarProblem {
  at::Tensor m;     // [B, n, n] fp64, dense, anchor added, every singular value <= 1
  at::Tensor zero;  // [B] bool: M = 0
};

struct PolarSolution {
  at::Tensor r;            // [B, n, n] fp64
  at::Tensor certificate;  // [B, 8] fp64
};

void check_polar(const at::Tensor& m, double anchor);

// Flattens, widens, scales, adds the anchor. Throws if a matrix is not finite. Waits for the device.
PolarProblem polar_problem(const at::Tensor& m, double anchor);  // m [..., n, n]

// Reshapes a solution into the operator's results.
std::tuple<at::Tensor, at::Tensor> polar_results(const at::Tensor& m, const PolarSolution& solution);

// One factor through an SVD; a null space is completed by the choice nearest to the identity.
std::tuple<at::Tensor, bool> polar_from_svd(const at::Tensor& m, const SvdOfOne& svd);  // r [n, n], rank deficient?

PolarSolution polar_by_svd(const PolarProblem& problem, const SvdOfOne& svd);

// X^T X - I for each matrix of x [B, n, n], dense. Where n is a multiple of 4 tiles, only what is on and below the diagonal tiles is
// multiplied, 10/16 of the whole, in three launches of n / 4 x n / 4 x n or larger products; the rest is the mirror image.
at::Tensor gram_minus_identity(const at::Tensor& x, int64_t tile);

struct NewtonSchulzOptions {
  double sigma_min = 1e-3;  // first guess of the smallest singular value over the bound: Note [A guess that mends itself]
  int max_steps = 40;       // reaches kappa 1e10; rounding noise in a null space stays below 1e-6 until then
};

// Indices of the matrices whose row of a certificate [B, 8] (on the CPU) proves nothing. Throws, naming the matrix, if one was not finite.
std::vector<int64_t> failed_matrices(const at::Tensor& certificate, at::IntArrayRef batch);

// The interval-optimal scaled cubic iteration (formulas and schedule: csrc/polar/params.h); each matrix stops by itself. Whatever does not converge or certify goes through
// `svd`, alone. Waits for the device once a step.
PolarSolution polar_by_iteration(const PolarProblem& problem, const NewtonSchulzOptions& options, const SvdOfOne& svd);

}  // namespace qkr
