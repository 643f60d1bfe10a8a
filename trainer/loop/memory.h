// Peak memory, for the step line.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>

namespace qkr {

// Bytes: the most that the device's caching allocator has held for tensors, or the most of this process that was resident.
int64_t peak_memory_bytes(c10::Device device);

}  // namespace qkr
