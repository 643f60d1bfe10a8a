// Tensor memory access: boxes of a tensor to shared memory by the copy engine (PTX ISA, cp.async.bulk.tensor; sm_90).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace qkr {

__device__ inline void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// One thread starts the copy of a 3-axis box; its bytes arrive on the barrier. What lies outside the tensor arrives as 0.
__device__ inline void tma_load(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int c0, int c1, int c2) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
      ::"r"(shared), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2)
      : "memory");
}

}  // namespace qkr
