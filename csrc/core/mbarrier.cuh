// Shared-memory barriers that asynchronous copies complete on (PTX ISA, mbarrier), and the fences around them.
#pragma once

#include <cstdint>

namespace qkr {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A phase ends when `count` arrivals and all the bytes announced for it have come.
__device__ inline void mbarrier_init(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

// After the inits, before anyone else (the copy engine included) uses the barriers.
__device__ inline void mbarrier_publish_inits() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ inline bool mbarrier_has_passed(uint32_t barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}

// Returns once the phase of this parity is over; a fresh barrier counts as past parity 1.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
#ifdef QKR_TRAP_ON_HANG
  for (int polls = 0; !mbarrier_has_passed(barrier, parity); ++polls) {
    if (polls > 1 << 20) __trap();
  }
#else
  while (!mbarrier_has_passed(barrier, parity)) {
  }
#endif
}

// What this thread stored in shared memory becomes visible to the copy engine and to wgmma.
__device__ inline void fence_shared_for_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Some of a block's threads meet; id 1 to 15 (0 is __syncthreads).
__device__ inline void named_barrier(uint32_t id, uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// The calling threads count as present, and go on.
__device__ inline void named_barrier_arrive(uint32_t id, uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

}  // namespace qkr
