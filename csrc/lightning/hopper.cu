#include "csrc/lightning/hopper.h"

#include <cudaTypedefs.h>

#include "csrc/lightning/hopper_consumer.cuh"

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

template <int kDim, bool kHiLo, int kPasses>
__global__ void __launch_bounds__(Plan<kDim, kHiLo>::kThreads, Plan<kDim, kHiLo>::kBlocksPerSm)
    lightning_kernel(const __grid_constant__ Jobs<kPasses> jobs) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using P = Plan<kDim, kHiLo>;
  extern __shared__ __align__(1024) uint8_t memory[];
  const uint32_t base = shared_address(memory);
  auto* cuts = reinterpret_cast<Cut*>(memory + P::kCuts);
  const Maps& maps = jobs.maps[blockIdx.x % kPasses];
  const Pass& pass = jobs.pass[blockIdx.x % kPasses];
  const int block = blockIdx.x / kPasses, blocks = gridDim.x / kPasses, group = threadIdx.x / 128;
  if (threadIdx.x / 32 == 0) cut_work(pass, block, blocks, reinterpret_cast<Extra*>(memory + P::kOut), cuts);
  if (threadIdx.x == 32) {
    for (int stage = 0; stage < P::kStages; ++stage) {
      mbarrier_init(P::full(base, stage), 1);
      mbarrier_init(P::empty(base, stage), P::kGroups * 4);  // one arrival a warp
    }
    for (int i = 0; i < P::kGroups; ++i) {
      mbarrier_init(P::scores_ready(base, i), 4);
      mbarrier_init(P::scores_free(base, i), P::kGroups * 4);
    }
    mbarrier_publish_inits();
  }
  if (threadIdx.x == 64 && pass.tokens > 0) {
    for (const CUtensorMap* map : {&maps.q, &maps.k, &maps.v, &maps.o}) tma_prefetch_map(map);
  }
  clear_scores<P>(base);
  __syncthreads();
  copy_empty_states<kDim>(pass, block, blocks);
  // the producer needs few registers, the consumers all they can get
  if (group == P::kGroups) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kDim == 64 ? 32 : 24));
    if (threadIdx.x % 128 == 0) produce<P>(maps, pass, cuts, base);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kDim == 64 ? 224 : 240));
    Consumer<kDim, kHiLo>(maps, pass, base, group).run(cuts);
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

bool encode(CUtensorMap* map, const HeadRows<const Bf16>& rows, int tokens, int heads, int dim) {
  const cuuint64_t sizes[3] = {static_cast<cuuint64_t>(dim), static_cast<cuuint64_t>(heads),
                               static_cast<cuuint64_t>(tokens)};
  const cuuint64_t token_bytes = rows.token_stride * sizeof(Bf16);
  const cuuint64_t strides[2] = {heads > 1 ? rows.head_stride * sizeof(Bf16) : token_bytes, token_bytes};
  const cuuint32_t box[3] = {64, 1, hopper::kChunk}, steps[3] = {1, 1, 1};
  // a head's row, and nothing of the next one's
  const auto promotion = dim == 64 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B : CU_TENSOR_MAP_L2_PROMOTION_L2_256B;
  return encoder()(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<Bf16*>(rows.data), sizes, strides, box, steps,
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
    const Pass& p = jobs.pass[i] = passes[i];
    if (p.heads == 0 || p.sequences == 0) return cudaSuccess;
    if (p.tokens == 0) continue;
    Maps& maps = jobs.maps[i];
    if (!encode(&maps.q, p.q, p.tokens, p.heads / p.q_group, p.head_dim) ||
        !encode(&maps.k, p.k, p.tokens, p.heads / p.k_group, p.head_dim) ||
        !encode(&maps.v, p.v, p.tokens, p.heads / p.v_group, p.head_dim) ||
        !encode(&maps.o, {p.o.data, p.o.token_stride, p.o.head_stride}, p.tokens, p.heads, p.head_dim)) {
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
