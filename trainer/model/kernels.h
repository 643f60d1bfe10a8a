// Which code computes a mixer, and why: what a run says at its start, and what it refuses to do slowly unasked.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>

#include "trainer/model/architecture.h"

namespace qkr {

struct MixerKernel {
  std::string name;  // and the reason, where it is not the fastest
  bool slow;         // a composite where the device has a kernel for other shapes or dtypes
};

// layer: an index of a.layers.
MixerKernel mixer_kernel(const Architecture& a, size_t layer, at::Device device, at::ScalarType dtype);

// "" or, for the first layer that would be slow, one line that names it, the rule and what was got.
std::string slow_kernel_refusal(const Architecture& a, at::Device device, at::ScalarType dtype);

}  // namespace qkr
