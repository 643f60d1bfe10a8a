#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cusolverDn.h>
#include <torch/library.h>

#include "ops/polar_iteration.h"

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

std::tuple<Tensor, Tensor> polar_cuda(const Tensor& m, double anchor) {
  check_polar(m, anchor);
  const c10::cuda::CUDAGuard device(m.device());
  // An anchor bounds the condition number, by 1e3 on real layers; without one nothing does. Too bold a guess costs steps only.
  constexpr double kAnchored = 1e-3;
  const NewtonSchulzOptions options{.sigma_min = anchor >= kAnchored ? 1e-4 : 1e-8};
  return polar_results(m, polar_by_iteration(polar_problem(m, anchor), options, cusolver_svd));
}

}  // namespace
}  // namespace qkr

TORCH_LIBRARY_IMPL(qk_restore, CUDA, m) { m.impl("polar", qkr::polar_cuda); }
