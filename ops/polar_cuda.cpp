#include <ATen/ATen.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cusolverDn.h>

#include <algorithm>

#include "csrc/polar/launch.h"
#include "ops/polar.h"
#include "ops/polar_iteration.h"
#include "ops/registration.h"

namespace qkr {
namespace {

using at::Tensor;

void check_solver(cusolverStatus_t status, const char* call) {
  TORCH_CHECK(status == CUSOLVER_STATUS_SUCCESS, "polar: ", call, " must succeed, got cuSOLVER status ",
              static_cast<int>(status));
}

class SolverHandle {
 public:
  explicit SolverHandle(cudaStream_t stream) {
    check_solver(cusolverDnCreate(&handle_), "cusolverDnCreate");
    check_solver(cusolverDnSetStream(handle_, stream), "cusolverDnSetStream");
    check_solver(cusolverDnCreateParams(&params_), "cusolverDnCreateParams");
  }
  ~SolverHandle() {
    cusolverDnDestroyParams(params_);
    cusolverDnDestroy(handle_);
  }
  SolverHandle(const SolverHandle&) = delete;
  SolverHandle& operator=(const SolverHandle&) = delete;
  cusolverDnHandle_t get() const { return handle_; }
  cusolverDnParams_t params() const { return params_; }

 private:
  cusolverDnHandle_t handle_ = nullptr;
  cusolverDnParams_t params_ = nullptr;
};

// QR-iteration SVD in fp64 of one matrix. cuSOLVER is column-major, so it is given m^T = V S U^T, and its two factors, read
// row by row again, are V^T and U.
std::tuple<Tensor, Tensor, Tensor> cusolver_svd(const Tensor& m) {
  const int64_t n = m.size(0);
  const SolverHandle solver(c10::cuda::getCurrentCUDAStream());
  Tensor a = m.clone(at::MemoryFormat::Contiguous);  // overwritten
  Tensor u = at::empty_like(a), vh = at::empty_like(a), s = at::empty({n}, a.options());
  Tensor info = at::zeros({1}, a.options().dtype(at::kInt));
  size_t device_bytes = 0, host_bytes = 0;
  check_solver(cusolverDnXgesvd_bufferSize(solver.get(), solver.params(), 'A', 'A', n, n, CUDA_R_64F, a.data_ptr(), n,
                                           CUDA_R_64F, s.data_ptr(), CUDA_R_64F, vh.data_ptr(), n, CUDA_R_64F,
                                           u.data_ptr(), n, CUDA_R_64F, &device_bytes, &host_bytes),
               "cusolverDnXgesvd_bufferSize");
  Tensor device_work = at::empty({static_cast<int64_t>(device_bytes)}, a.options().dtype(at::kByte));
  Tensor host_work = at::empty({static_cast<int64_t>(host_bytes)}, at::kByte);
  check_solver(
      cusolverDnXgesvd(solver.get(), solver.params(), 'A', 'A', n, n, CUDA_R_64F, a.data_ptr(), n, CUDA_R_64F,
                       s.data_ptr(), CUDA_R_64F, vh.data_ptr(), n, CUDA_R_64F, u.data_ptr(), n, CUDA_R_64F,
                       device_work.data_ptr(), device_bytes, host_work.data_ptr(), host_bytes, info.data_ptr<int>()),
      "cusolverDnXgesvd");
  const int failed = info.item<int>();  // waits, so that the host workspace outlives its use
  TORCH_CHECK(failed == 0, "polar: cusolverDnXgesvd must converge, got info ", failed);
  return {u, s, vh};
}

// A guess of sigma_min over its bound: that of a square Gaussian matrix, whose smallest singular value is about 1 / sqrt(n)
// and whose bound is about n / 3. Too bold or too shy costs steps only (csrc/polar/params.h).
double first_guess(int64_t n) { return std::min(1e-3, 0.1 / static_cast<double>(n)); }

template <class T>
void run_head(const Tensor& m, double anchor, const Tensor& r, const Tensor& certificate) {
  const NewtonSchulzOptions options{.sigma_min = first_guess(m.size(-1))};
  const PolarHeadParams<T> p{m.const_data_ptr<T>(),      r.mutable_data_ptr<T>(), certificate.mutable_data_ptr<double>(),
                             certificate.numel() / kPolarColumns, static_cast<int>(m.size(-1)), anchor, options.sigma_min,
                             options.max_steps};
  C10_CUDA_CHECK(launch_polar_head(p, c10::cuda::getCurrentCUDAStream()));
}

// Small matrices: the whole iteration and the certificate in one kernel. What fails there goes to the SVD, alone.
std::tuple<Tensor, Tensor> polar_head(const Tensor& m, double anchor) {
  const Tensor dense = m.contiguous();
  std::vector<int64_t> rows = m.sizes().slice(0, m.dim() - 2).vec();
  rows.push_back(kPolarColumns);
  const Tensor r = at::empty_like(dense), certificate = at::empty(rows, m.options().dtype(at::kDouble));
  dense.scalar_type() == at::kFloat ? run_head<float>(dense, anchor, r, certificate)
                                    : run_head<double>(dense, anchor, r, certificate);
  const int64_t n = m.size(-1);
  const Tensor certificates = certificate.view({-1, kPolarColumns});
  const std::vector<int64_t> failed = failed_matrices(certificates.cpu(), m.sizes().slice(0, m.dim() - 2));
  if (!failed.empty()) {
    const Tensor where = at::tensor(failed, at::kLong).to(m.device());
    const PolarSolution again =
        polar_by_svd(polar_problem(dense.view({-1, n, n}).index_select(0, where), anchor), cusolver_svd);
    again.certificate.select(1, kPolarFallback).fill_(1);
    again.certificate.select(1, kPolarIterations).copy_(certificates.index_select(0, where).select(1, kPolarIterations));
    r.view({-1, n, n}).index_copy_(0, where, again.r.to(r.scalar_type()));
    certificates.index_copy_(0, where, again.certificate);
  }
  return {r, certificate};
}

std::tuple<Tensor, Tensor> polar_cuda(const Tensor& m, double anchor) {
  check_polar(m, anchor);
  const c10::cuda::CUDAGuard device(m.device());
  if (m.numel() > 0 && polar_head_serves(static_cast<int>(std::min<int64_t>(m.size(-1), kPolarHeadMaxN + 1)))) {
    return polar_head(m, anchor);
  }
  const NewtonSchulzOptions options{.sigma_min = first_guess(m.size(-1))};
  return polar_results(m, polar_by_iteration(polar_problem(m, anchor), options, cusolver_svd));
}

}  // namespace
}  // namespace qkr

QKR_LIBRARY_IMPL(CUDA, m) { m.impl("polar", qkr::polar_cuda); }
