#include "csrc/lightning/launch.h"

#include <type_traits>

#include "csrc/lightning/hopper.h"
#include "csrc/lightning/pass.h"
#include "csrc/lightning/portable.h"

namespace qkr {
namespace {

__global__ void this_code() {}

// Whether the device is Hopper and this library holds code for Hopper. Built for 8.0 alone it runs translated code there,
// as it does on newer devices.
bool on_hopper() {
  int device = 0, major = 0;
  cudaFuncAttributes built = {};
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess && major == 9 &&
         cudaFuncGetAttributes(&built, this_code) == cudaSuccess && built.ptxVersion >= 90;
}

}  // namespace

template <class T>
cudaError_t launch_lightning(const LightningParams<T>& p, cudaStream_t stream) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (on_hopper() && lightning_hopper_serves(p)) return launch_lightning_hopper(p, stream);
  }
  return launch_lightning_portable(forward_pass(p), stream);
}

template <class T>
cudaError_t launch_lightning_grad(const LightningGradParams<T>& p, cudaStream_t stream) {
  if constexpr (std::is_same_v<T, Bf16>) {
    if (on_hopper() && lightning_hopper_serves(p)) return launch_lightning_hopper(p, stream);
  }
  for (const LightningGrad which : {LightningGrad::kQ, LightningGrad::kK, LightningGrad::kV}) {
    const cudaError_t error = launch_lightning_portable(grad_pass(p, which), stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template cudaError_t launch_lightning(const LightningParams<Bf16>&, cudaStream_t);
template cudaError_t launch_lightning(const LightningParams<float>&, cudaStream_t);
template cudaError_t launch_lightning_grad(const LightningGradParams<Bf16>&, cudaStream_t);
template cudaError_t launch_lightning_grad(const LightningGradParams<float>&, cudaStream_t);

}  // namespace qkr
