#include "csrc/polar/factor.cuh"
#include "csrc/polar/launch.h"
#include "csrc/polar/products.cuh"

namespace qkr {
namespace {

constexpr double kEps = 2.220446049250313e-16;

// M as the iteration sees it: scaled by a power of two to entries of at most 1 (exact, and nothing overflows), the anchor added,
// and continued to N x N by a diagonal block that has the size of M's own singular values.
template <class T>
struct Problem {
  const T* m;
  int n;
  double scale[2];  // powers of two, so that the product is exact; two, because one alone may overflow
  double anchor;    // of the diagonal
  double padding;   // of the diagonal past n: root mean square of the singular values
  double frobenius;
  double largest;  // of |m|, before scaling; not finite where an entry is not

  __device__ double entry(int row, int column) const {
    if (row >= n || column >= n) return row == column ? padding : 0;
    const double x = static_cast<double>(m[row * n + column]) * scale[0] * scale[1];
    return row == column ? x + anchor : x;
  }
};

// Reads m once, into X as it is, and then makes X the problem's matrix in place: device memory answers slowly.
template <int kStripes, class T>
__device__ Problem<T> read_problem(const PolarHeadParams<T>& p, int& turn) {
  using Shape = PolarShape<kStripes>;
  constexpr int kN = Shape::kN;
  const auto [x, g, scratch] = PolarMemory<kStripes>::get();
  Problem<T> problem{p.m + static_cast<int64_t>(blockIdx.x) * p.n * p.n, p.n, {1, 1}, 0, 0, 0, 0};
  double largest = 0;
#pragma unroll 8
  for (int i = threadIdx.x; i < kN * kN; i += Shape::kThreads) {
    const double value = problem.entry(i / kN, i % kN);  // nothing is scaled or added yet
    x[square_index<kN>(i / kN, i % kN)] = value;
    largest = fabs(value) <= 1.7976931348623157e308 ? fmax(largest, fabs(value)) : INFINITY;  // NaN too
  }
  problem.largest = block_max<Shape::kWarps>(largest, scratch->sums, turn);
  if (problem.largest == 0 || isinf(problem.largest)) return problem;
  const int exponent = -ilogb(problem.largest) - 1;
  problem.scale[0] = scalbn(1.0, exponent / 2);
  problem.scale[1] = scalbn(1.0, exponent - exponent / 2);
  if (p.anchor > 0) {
    double diagonal = 0;
    for (int i = threadIdx.x; i < p.n; i += Shape::kThreads) {
      diagonal += fabs(x[square_index<kN>(i, i)] * problem.scale[0] * problem.scale[1]);
    }
    problem.anchor = p.anchor * block_sum<Shape::kWarps>(diagonal, scratch->sums, turn) / p.n;
  }
  double squares = 0;
  for (int i = threadIdx.x; i < kN * kN; i += Shape::kThreads) {
    const int row = i / kN, column = i % kN;
    double& value = x[square_index<kN>(row, column)];
    value = value * problem.scale[0] * problem.scale[1] + (row == column && row < p.n ? problem.anchor : 0);
    squares += value * value;
  }
  problem.frobenius = sqrt(block_sum<Shape::kWarps>(squares, scratch->sums, turn));
  problem.padding = problem.frobenius / sqrt(static_cast<double>(p.n));
  for (int i = p.n + threadIdx.x; i < kN; i += Shape::kThreads) x[square_index<kN>(i, i)] = problem.padding;
  __syncthreads();
  return problem;
}

// Scales X and its Gram matrix by the bound of Note [A guess that mends itself], sigma_max^2 <= ||X^T X||_inf.
template <int kStripes>
__device__ __noinline__ void scale_by_gram(int& turn) {
  using Shape = PolarShape<kStripes>;
  const auto [x, g, scratch] = PolarMemory<kStripes>::get();
  double bound = 0;
  for (int row = threadIdx.x; row < Shape::kN; row += Shape::kThreads) {
    double sum = 0;
    for (int column = 0; column < Shape::kN; ++column) {
      const bool below = row >= column;
      const int r = below ? row : column, c = below ? column : row;
      sum += fabs(g[tile_offset(r / 16, c / 16) + in_tile(r & 15, c & 15)]);
    }
    bound = fmax(bound, sum);
  }
  bound = block_max<Shape::kWarps>(bound, scratch->sums, turn);
  const double by = 1 / sqrt(bound);
  for (int i = threadIdx.x; i < Shape::kN * Shape::kN; i += Shape::kThreads) x[i] *= by;
  for (int i = threadIdx.x; i < Shape::kTriangleTiles * 256; i += Shape::kThreads) g[i] *= by * by;
  __syncthreads();
}

// ||G - I||_F
template <int kStripes>
__device__ double distance_from_identity(int& turn) {
  using Shape = PolarShape<kStripes>;
  const PolarMemory<kStripes> memory = PolarMemory<kStripes>::get();
  double* const g = memory.triangle;
  double squares = 0;
  for_triangle<kStripes>([&](int i, int row, int column, double weight) {
    const double x = row == column ? g[i] - 1 : g[i];
    squares += weight * x * x;
  });
  return sqrt(block_sum<Shape::kWarps>(squares, memory.scratch->sums, turn));
}

struct Iterated {
  int steps;
  double distance;  // ||X^T X - I||_F at the end
};

// X <- the polar factor of X. See csrc/polar/params.h for the schedule.
template <int kStripes>
__device__ Iterated iterate(double sigma_min, int max_steps, double tolerance, int& turn) {
  using Shape = PolarShape<kStripes>;
  const double root_n = sqrt(static_cast<double>(Shape::kN));
  double l = sigma_min;
  for (int step = 0;; ++step) {
    gram<kStripes>();
    __syncthreads();
    if (step == 0) scale_by_gram<kStripes>(turn);
    const double distance = distance_from_identity<kStripes>(turn);
    if (distance <= tolerance || step == max_steps) return {step, distance};
    const double rho = polar_next_rho(l, distance, root_n);
    update<kStripes>(1.5 * rho, -0.5 * rho * rho * rho);
  }
}

// X <- R^T M, R in X on entry; M is read again, half of its rows at a time.
template <int kStripes, class T>
__device__ __noinline__ void multiply_by_problem(const Problem<T>& problem) {
  using Shape = PolarShape<kStripes>;
  double* const x = PolarMemory<kStripes>::get().square;
  double* const rows = PolarMemory<kStripes>::get().triangle;
  constexpr int kN = Shape::kN, kHalf = kN / 2;
  const int warp = static_cast<int>(threadIdx.x) >> 5;
  const int m0 = 32 * (warp / kStripes), n0 = 32 * (warp % kStripes);
  const MmaLane lane = mma_lane();
  double acc[2][4][4] = {};
  for (int half = 0; half < 2; ++half) {
#pragma unroll 8
    for (int i = threadIdx.x; i < kHalf * kN; i += Shape::kThreads) {
      rows[square_index<kN>(i / kN, i % kN)] = problem.entry(half * kHalf + i / kN, i % kN);
    }
    __syncthreads();
    multiply_transposed<kN, kHalf>(acc, x + half * kHalf * kN, rows, m0, n0, lane);
    __syncthreads();
  }
  for_pairs(acc, m0, n0, lane, [&](int row, int column, double first, double second) {
    *reinterpret_cast<double2*>(x + square_index<kN>(row, column)) = make_double2(first, second);
  });
  __syncthreads();
}

// ||H v|| / ||v|| after a few rounds of v <- H v: the largest eigenvalue, from below. H symmetric up to rounding.
template <int kStripes>
__device__ double largest_eigenvalue(int& turn) {
  using Shape = PolarShape<kStripes>;
  const auto [x, g, scratch] = PolarMemory<kStripes>::get();
  constexpr int kN = Shape::kN, kRounds = 5;
  const int column = static_cast<int>(threadIdx.x) % kN, part = static_cast<int>(threadIdx.x) / kN;
  double before = 1, after = 1;
  for (int round = 0; round < kRounds; ++round) {
    double sum = 0;
    for (int row = 32 * part; row < 32 * part + 32; ++row) sum += x[square_index<kN>(row, column)] * scratch->vector[row];
    scratch->partial[part * kN + column] = sum;
    __syncthreads();
    sum = 0;
    if (part == 0) {
      for (int i = 0; i < kStripes; ++i) sum += scratch->partial[i * kN + column];
    }
    before = after;
    after = sqrt(block_sum<Shape::kWarps>(sum * sum, scratch->sums, turn));
    if (part == 0) scratch->vector[column] = sum / after;
    __syncthreads();
  }
  return after;
}

// A start for power iterations without structure, of norm about 1; 0 past n, where only the padding lives.
template <int kStripes>
__device__ void start_vector(int n) {
  PolarScratch<kStripes>* const scratch = PolarMemory<kStripes>::get().scratch;
  constexpr int kN = PolarShape<kStripes>::kN;
  for (int i = threadIdx.x; i < kN; i += PolarShape<kStripes>::kThreads) {
    const double x = (i + 1) * 1.618033988749895;
    scratch->vector[i] = i < n ? (x - floor(x) + 0.25) / sqrt(static_cast<double>(n)) : 0;
  }
  __syncthreads();
}

struct Certificate {
  double skew, gap, kappa;
  bool cholesky;
};

// From M and R alone; R is lost.
template <int kStripes, class T>
__device__ __noinline__ Certificate certify(const Problem<T>& problem, int& turn) {
  using Shape = PolarShape<kStripes>;
  const PolarMemory<kStripes> memory = PolarMemory<kStripes>::get();  // no structured binding: C++17 lambdas do not capture those
  double* const x = memory.square;
  double* const g = memory.triangle;
  PolarScratch<kStripes>* const scratch = memory.scratch;
  constexpr int kN = Shape::kN;
  multiply_by_problem<kStripes>(problem);
  const double delta = problem.n * kEps * problem.frobenius;
  double skew_squares = 0, trace = 0;
  for_triangle<kStripes>([&](int i, int row, int column, double weight) {
    const double below = x[square_index<kN>(row, column)], above = x[square_index<kN>(column, row)];
    skew_squares += weight * (below - above) * (below - above);
    if (row == column && row < problem.n) trace += below;
    g[i] = 0.5 * (below + above) + (row == column ? delta : 0);
  });
  const double skew = sqrt(block_sum<Shape::kWarps>(skew_squares, scratch->sums, turn));
  trace = block_sum<Shape::kWarps>(trace, scratch->sums, turn);
  start_vector<kStripes>(problem.n);
  const double largest = largest_eigenvalue<kStripes>(turn);
  Certificate out{skew / problem.frobenius, INFINITY, NAN, false};
  out.cholesky = factor<kStripes>();
  if (!out.cholesky) return out;
  out.gap = (2 * problem.n * delta + sqrt(static_cast<double>(problem.n)) * skew) / trace;
  start_vector<kStripes>(problem.n);
  double inverse = 0;
  for (int round = 0; round < 2; ++round) {
    solve<kStripes>();
    double squares = 0;
    for (int i = threadIdx.x; i < kN; i += Shape::kThreads) squares += scratch->vector[i] * scratch->vector[i];
    inverse = sqrt(block_sum<Shape::kWarps>(squares, scratch->sums, turn));
    for (int i = threadIdx.x; i < kN; i += Shape::kThreads) scratch->vector[i] /= inverse;
    __syncthreads();
  }
  out.kappa = largest * inverse;
  return out;
}

template <class T>
__device__ void write_certificate(double* row, double orthogonality, const Certificate& c, int steps, int flags) {
  // in the order of PolarColumn; the fallback is the caller's
  const double columns[kPolarHeadColumns] = {
      orthogonality, c.skew, c.cholesky ? 1. : 0., static_cast<double>(steps), c.gap, 0, c.kappa, static_cast<double>(flags)};
  for (int i = 0; i < kPolarHeadColumns; ++i) row[i] = columns[i];
}

template <int kStripes, class T>
__global__ void __launch_bounds__(PolarShape<kStripes>::kThreads, 1) polar_head_kernel(const PolarHeadParams<T> p) {
  using Shape = PolarShape<kStripes>;
  constexpr int kN = Shape::kN;
  double* const x = PolarMemory<kStripes>::get().square;
  int turn = 0;
  const Problem<T> problem = read_problem<kStripes>(p, turn);
  T* const r = p.r + static_cast<int64_t>(blockIdx.x) * p.n * p.n;
  double* const certificate = p.certificate + static_cast<int64_t>(blockIdx.x) * kPolarHeadColumns;
  if (problem.largest == 0 || isinf(problem.largest)) {
    const bool zero = problem.largest == 0;
    for (int i = threadIdx.x; i < p.n * p.n; i += Shape::kThreads) r[i] = i / p.n == i % p.n ? T(1) : T(0);
    if (threadIdx.x == 0) {
      write_certificate<T>(certificate, 0, {0, 0, NAN, zero}, 0, zero ? kPolarHeadZero : kPolarHeadNotFinite);
    }
    return;
  }
  const double root_n = sqrt(static_cast<double>(p.n));
  const Iterated iterated = iterate<kStripes>(p.sigma_min, p.max_steps, PolarSchedule::kOrthogonal * root_n, turn);
  for (int i = threadIdx.x; i < kN * kN; i += Shape::kThreads) {
    const int row = i / kN, column = i % kN;
    if (row < p.n && column < p.n) r[row * p.n + column] = static_cast<T>(x[square_index<kN>(row, column)]);
  }
  __syncthreads();
  const Certificate c = certify<kStripes>(problem, turn);
  if (threadIdx.x == 0) {
    write_certificate<T>(certificate, iterated.distance / root_n, c, iterated.steps, 0);
  }
}

template <int kStripes, class T>
cudaError_t launch(const PolarHeadParams<T>& p, cudaStream_t stream) {
  constexpr int kBytes = PolarMemory<kStripes>::kBytes;
  const auto kernel = polar_head_kernel<kStripes, T>;
  const cudaError_t status = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  kernel<<<static_cast<unsigned>(p.batch), PolarShape<kStripes>::kThreads, kBytes, stream>>>(p);
  return cudaGetLastError();
}

constexpr int shared_bytes(int stripes) {
  constexpr int kBytes[] = {PolarMemory<1>::kBytes, PolarMemory<2>::kBytes, PolarMemory<3>::kBytes, PolarMemory<4>::kBytes};
  return kBytes[stripes - 1];
}

}  // namespace

bool polar_head_serves(int n) {
  if (n < 1 || n > kPolarHeadMaxN) return false;
  int device = 0, limit = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return false;
  if (cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess) return false;
  return shared_bytes((n + 31) / 32) <= limit;
}

template <class T>
cudaError_t launch_polar_head(const PolarHeadParams<T>& p, cudaStream_t stream) {
  if (p.batch == 0) return cudaSuccess;
  switch ((p.n + 31) / 32) {
    case 1:
      return launch<1>(p, stream);
    case 2:
      return launch<2>(p, stream);
    case 3:
      return launch<3>(p, stream);
    default:
      return launch<4>(p, stream);
  }
}

template cudaError_t launch_polar_head(const PolarHeadParams<float>&, cudaStream_t);
template cudaError_t launch_polar_head(const PolarHeadParams<double>&, cudaStream_t);

}  // namespace qkr
