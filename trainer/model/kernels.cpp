#include "trainer/model/kernels.h"

#include "ops/lightning_attention.h"
#include "trainer/model/softmax_attention.h"

namespace qkr {
namespace {

MixerKernel lightning_kernel(const LightningShape& shape, at::Device device, at::ScalarType dtype) {
  const std::string composite = "batched products over chunks of 64, fp32 state";
  if (!device.is_cuda()) return {composite, false};
  if (!lightning_has_kernel(dtype, shape.head_dim)) {
    return {composite + " (kernels serve bf16 and fp32 with heads of 64 or 128, not " + c10::toString(dtype) + " with " +
                std::to_string(shape.head_dim) + ")",
            true};
  }
  // the fast path multiplies bf16 operands; fp32 inputs are split into three
  if (dtype == at::kBFloat16) return {"lightning_attention, wgmma and TMA on compute capability 9.0, else mma.sync", false};
  return {"lightning_attention, mma.sync (wgmma serves bf16)", false};
}

}  // namespace

MixerKernel mixer_kernel(const Architecture& a, size_t layer, at::Device device, at::ScalarType dtype) {
  const Layer& l = a.layers.at(layer);
  if (l.mixer == MixerKind::kLightning) return lightning_kernel(l.lightning, device, dtype);
  return {softmax_kernel_name(device, dtype, l.softmax.head_dim), false};
}

std::string slow_kernel_refusal(const Architecture& a, at::Device device, at::ScalarType dtype) {
  for (size_t layer = 0; layer < a.layers.size(); ++layer) {
    const MixerKernel kernel = mixer_kernel(a, layer, device, dtype);
    if (!kernel.slow) continue;
    return "model: layer " + std::to_string(layer) + " must have a kernel on " + device.str() +
           " (model.allow_slow: true runs it without), got " + kernel.name;
  }
  return "";
}

}  // namespace qkr
