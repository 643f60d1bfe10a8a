// Tensor memory access: boxes of a tensor to shared memory by the copy engine (PTX ISA, cp.async.bulk.tensor; sm_90).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace qkr {

__device__ inline void tma_prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// One thread starts the copy of a 4-axis box; its bytes arrive on the barrier. What lies outside the tensor arrives as
// 0.
__device__ inline void tma_load(uint32_t shared, const CUtensorMap* map, uint32_t barrier, int c0, int c1, int c2,
                                int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], [%2];"
      ::"r"(shared), "l"(map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// One thread starts the copy of a 4-axis box the other way; what lies outside the tensor is not written. Whoever wrote
// the box has called fence_shared_for_async before.
__device__ inline void tma_store(const CUtensorMap* map, uint32_t shared, int c0, int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];\n"
      "cp.async.bulk.commit_group;"
      ::"l"(map), "r"(shared), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// Returns when all stores that this thread started have read their boxes.
__device__ inline void tma_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

}  // namespace qkr
