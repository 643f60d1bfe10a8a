#include "csrc/lightning/hopper.h"

#include <cudaTypedefs.h>

#include "csrc/lightning/hopper_consumer.cuh"
#include "csrc/lightning/hopper_mover.cuh"

namespace qkr {
namespace hopper {
namespace {

// Sequences without tokens: the final state is the initial one.
template <int kDim>
__device__ inline void copy_empty_states(const Pass& pass, int block, int blocks) {
  if (pass.final_state == nullptr) return;
  for (int i = block; i < pass.sequences * pass.heads; i += blocks) {
    const int sequence = i / pass.heads;
    if (pass.cu_seqlens[sequence] != pass.cu_seqlens[sequence + 1]) continue;
    for (int j = threadIdx.x; j < kDim * kDim; j += blockDim.x) {
      const int64_t at = static_cast<int64_t>(i) * kDim * kDim;
      const int from = pass.initial_transposed ? j % kDim * kDim + j / kDim : j;
      pass.final_state[at + j] = pass.initial_state == nullptr ? 0.f : pass.initial_state[at + from];
    }
  }
}

template <class P>
__device__ inline void init_barriers(uint32_t base) {
  for (int stage = 0; stage < P::kStages; ++stage) {
    mbarrier_init(P::full(base, stage), 1);
    mbarrier_init(P::empty(base, stage), (P::kGroups + 1) * 4 + P::kGroups);  // one arrival a warp
  }
  for (int group = 0; group < P::kGroups; ++group) {
    mbarrier_init(P::scores_ready(base, group), 4);
    mbarrier_init(P::scores_free(base, group), P::kGroups * 4);
    for (int buffer = 0; buffer < P::kOutBuffers; ++buffer) {
      mbarrier_init(P::out_ready(base, group, buffer), 4);
      mbarrier_init(P::out_free(base, group, buffer), 1);
    }
  }
  mbarrier_publish_inits();
}

template <int kDim, bool kHiLo, int kPasses>
__global__ void __launch_bounds__(Plan<kDim, kHiLo>::kThreads, Plan<kDim, kHiLo>::kBlocksPerSm)
    lightning_kernel(const __grid_constant__ Jobs<kPasses> jobs) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using P = Plan<kDim, kHiLo>;
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t base = shared_address(memory);
  auto& tasks = *reinterpret_cast<Tasks<P::kStages>*>(memory + P::kTasks);
  const Maps& maps = jobs.job[blockIdx.x % kPasses].maps;
  const Pass& pass = jobs.job[blockIdx.x % kPasses].pass;
  const int block = blockIdx.x / kPasses, blocks = gridDim.x / kPasses, group = threadIdx.x / 128;
  if (threadIdx.x == 0) init_barriers<P>(base);
  if (threadIdx.x == 32 && pass.tokens > 0) {
    for (const CUtensorMap* map : {&maps.q, &maps.k, &maps.v, &maps.o}) tma_prefetch_map(map);
  }
  clear_scores<P>(base);
  __syncthreads();
  copy_empty_states<kDim>(pass, block, blocks);
  if (group < P::kGroups) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(P::kConsumerRegisters));
    Consumer<kDim, kHiLo>(pass, base, tasks, group).run();
  } else if (group == P::kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(P::kMakerRegisters));
    ScoreMaker<kDim, kHiLo>(pass, base, tasks).run();
  } else {
    const int warp = threadIdx.x / 32 % 4;
    // its room is what will be a buffer for output: nobody looks there for any before
    if (warp == 0) cut_work(pass, block, blocks, reinterpret_cast<Extra*>(memory + P::kOut), tasks.cuts);
    named_barrier(kMoverMeets, 128);
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(P::kMoverRegisters));
    if (threadIdx.x % 128 == 0) bring_tiles<P>(maps, pass, base, tasks);
    if (0 < warp && warp <= P::kGroups) take_out<P>(maps, pass, base, tasks, warp - 1);
  }
#endif
}

}  // namespace
}  // namespace hopper

namespace {

using hopper::Jobs;
using hopper::Maps;
using Pass = LightningPass<Bf16>;

// The driver's function, without linking the driver; null where there is none.
PFN_cuTensorMapEncodeTiled_v12000 encoder() {
  static const auto found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result;
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result);
    if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return found;
}

bool is_aligned(const HeadRows<const Bf16>& rows) {
  constexpr int64_t kPack = 8;  // 16 bytes
  return reinterpret_cast<uintptr_t>(rows.data) % 16 == 0 && rows.token_stride > 0 && rows.token_stride % kPack == 0 &&
         rows.head_stride > 0 && rows.head_stride % kPack == 0;
}
bool is_aligned(const HeadRows<Bf16>& rows) {
  return is_aligned(HeadRows<const Bf16>{rows.data, rows.token_stride, rows.head_stride});
}

// Axes: 64 columns, tokens, which 64 columns of a head, heads. A box is one chunk's tile, or all tiles of a head.
bool encode(CUtensorMap* map, const HeadRows<const Bf16>& rows, int tokens, int heads, int dim, int tiles_in_box) {
  const cuuint64_t sizes[4] = {64, static_cast<cuuint64_t>(tokens), static_cast<cuuint64_t>(dim / 64),
                               static_cast<cuuint64_t>(heads)};
  const cuuint64_t token_bytes = rows.token_stride * sizeof(Bf16);
  const cuuint64_t strides[3] = {token_bytes, 64 * sizeof(Bf16),
                                 heads > 1 ? rows.head_stride * sizeof(Bf16) : token_bytes};
  const cuuint32_t box[4] = {64, hopper::kChunk, static_cast<cuuint32_t>(tiles_in_box), 1}, steps[4] = {1, 1, 1, 1};
  // a head's row, and nothing of the next one's
  const auto promotion = dim == 64 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, const_cast<Bf16*>(rows.data), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kDim, bool kHiLo, int kPasses>
cudaError_t launch(const Jobs<kPasses>& jobs, cudaStream_t stream) {
  using P = hopper::Plan<kDim, kHiLo>;
  const auto kernel = hopper::lightning_kernel<kDim, kHiLo, kPasses>;
  int device = 0, multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error == cudaSuccess) {
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, P::kBytes);
  }
  if (error != cudaSuccess) return error;
  const int blocks = multiprocessors * P::kBlocksPerSm / kPasses * kPasses;
  kernel<<<blocks, P::kThreads, P::kBytes, stream>>>(jobs);
  return cudaGetLastError();
}

template <int kPasses>
cudaError_t run(const Pass (&passes)[kPasses], cudaStream_t stream) {
  Jobs<kPasses> jobs{};
  for (int i = 0; i < kPasses; ++i) {
    const Pass& p = jobs.job[i].pass = passes[i];
    if (p.heads == 0 || p.sequences == 0) return cudaSuccess;
    if (p.tokens == 0) continue;
    Maps& maps = jobs.job[i].maps;
    if (!encode(&maps.q, p.q, p.tokens, p.heads / p.q_group, p.head_dim, p.head_dim / 64) ||
        !encode(&maps.k, p.k, p.tokens, p.heads / p.k_group, p.head_dim, p.head_dim / 64) ||
        !encode(&maps.v, p.v, p.tokens, p.heads / p.v_group, p.head_dim, p.head_dim / 64) ||
        !encode(&maps.o, {p.o.data, p.o.token_stride, p.o.head_stride}, p.tokens, p.heads, p.head_dim, 1)) {
      return cudaErrorNotSupported;
    }
  }
  const bool is_hilo = passes[0].mode == LightningMode::kHiLo;
  if (passes[0].head_dim == 128) return is_hilo ? launch<128, true>(jobs, stream) : launch<128, false>(jobs, stream);
  return is_hilo ? launch<64, true>(jobs, stream) : launch<64, false>(jobs, stream);
}

bool serves(int64_t tokens, int heads, int head_dim) {
  return (head_dim == 64 || head_dim == 128) && heads <= hopper::kMaxHeads && tokens < INT32_MAX / 2 &&
         encoder() != nullptr;
}

}  // namespace

bool lightning_hopper_serves(const LightningParams<Bf16>& p) {
  return serves(p.tokens, p.heads, p.head_dim) && is_aligned(p.q) && is_aligned(p.k) && is_aligned(p.v) &&
         is_aligned(p.o);
}

bool lightning_hopper_serves(const LightningGradParams<Bf16>& p) {
  return serves(p.tokens, p.heads, p.head_dim) && is_aligned(p.q) && is_aligned(p.k) && is_aligned(p.v) &&
         is_aligned(p.d_o) && is_aligned(p.d_q) && is_aligned(p.d_k) && is_aligned(p.d_v);
}

cudaError_t launch_lightning_hopper(const LightningParams<Bf16>& p, cudaStream_t stream) {
  return run<1>({forward_pass(p)}, stream);
}

cudaError_t launch_lightning_hopper(const LightningGradParams<Bf16>& p, cudaStream_t stream) {
  const Pass of_q = grad_pass(p, LightningGrad::kQ), of_k = grad_pass(p, LightningGrad::kK),
             of_v = grad_pass(p, LightningGrad::kV);
  // Short rows: one launch of longer pieces with fewer warm-ups. Long ones: d_k and d_v have the cache to themselves.
  constexpr int64_t kShort = 16384;
  if (p.tokens < kShort) return run<3>({of_q, of_k, of_v}, stream);
  const cudaError_t error = run<1>({of_q}, stream);
  return error != cudaSuccess ? error : run<2>({of_k, of_v}, stream);
}

}  // namespace qkr
