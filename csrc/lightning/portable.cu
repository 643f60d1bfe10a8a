#include "csrc/lightning/portable.h"

#include "csrc/lightning/portable.cuh"

namespace qkr {
namespace {

// Eight warps with nearly all registers: more of them would spill, and cut the heads into more segments, each with its
// window.
constexpr int kThreadsOfMultiprocessor = 256;

template <class S>
__device__ void enter_document(S& s, const PortableThread& me, const LightningPass<typename S::T>& p, int head,
                               int document) {
  constexpr int64_t kSize = S::kDim * S::kDim;
  const float* const from = p.initial_state == nullptr
                                ? nullptr
                                : p.initial_state + (static_cast<int64_t>(document) * p.heads + head) * kSize;
  for_state(s, me, p.initial_transposed, [&](float& x, int offset) { x = from == nullptr ? 0.f : from[offset]; });
}

template <class S>
__device__ void leave_document(S& s, const PortableThread& me, const LightningPass<typename S::T>& p, int head,
                               int document) {
  constexpr int64_t kSize = S::kDim * S::kDim;
  float* const to = p.final_state + (static_cast<int64_t>(document) * p.heads + head) * kSize;
  for_state(s, me, false, [&](float& x, int offset) { to[offset] = x; });
}

template <class S>
__device__ void clear_out(S& s) {
#pragma unroll
  for (int i = 0; i < S::kRowTiles * S::kValueTiles * 8; ++i) {
    s.out[i / (S::kValueTiles * 8)][i / 4 % (2 * S::kValueTiles)][i % 4] = 0.f;
  }
}

// Shared memory: the stages of (q, k, v) tiles, then P. Two barriers a chunk: its tiles have come and the last chunk's
// are free; P is written.
template <class S>
__global__ void __launch_bounds__(S::kThreads, kThreadsOfMultiprocessor / S::kThreads)
    portable_kernel(const __grid_constant__ LightningPass<typename S::T> p) {
  extern __shared__ __align__(1024) uint8_t shared[];
  __shared__ Segment segment;
  __shared__ ChunkWalker<S::kChunk> walker;  // thread 0's
  __shared__ Chunk chunks[3];                // number n at n % 3
  const int thread = static_cast<int>(threadIdx.x);
  PortableThread me{thread % 32, thread / 32, shared_address(shared), 0.f};
  if (me.warp == 0) {
    const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    const Segment mine = pick_segment(p.slopes, p.heads, p.tokens, block, blocks);
    if (thread == 0) {
      segment = mine;
      walker.start(p.cu_seqlens, p.sequences, p.tokens, p.reverse, p.final_state != nullptr, mine);
      chunks[0] = walker.next();
      chunks[1] = walker.next();
    }
  }
  __syncthreads();
  if (!segment.valid) return;
  const int head = segment.head;
  constexpr float kLog2E = 1.4426950408889634f;
  me.rate = p.slopes[head] * kLog2E;
  const uint32_t scores = me.shared + S::kStages * S::kStageBytes;

  S s;
  for_state(s, me, false, [](float& x, int) { x = 0.f; });
  uint32_t stage = me.shared, other = me.shared + (S::kStages - 1) * S::kStageBytes;
  load_chunk<S>(p, head, chunks[0], stage);
  for (int n = 0;; n = n == 2 ? 0 : n + 1) {
    const Chunk chunk = chunks[n];
    if (!chunk.valid) break;
    copy_async_wait_all();
    __syncthreads();
    const Chunk& next = chunks[n == 2 ? 0 : n + 1];
    if (S::kStages == 2) load_chunk<S>(p, head, next, other);
    if (thread == 0) chunks[n == 0 ? 2 : n - 1] = walker.next();
    if (chunk.starts) enter_document(s, me, p, head, chunk.document);
    if (chunk.emits) {
      clear_out(s);
      write_scores<S>(me, p.intra, stage, scores);
      if (!chunk.starts || p.initial_state != nullptr) read_state(s, me, p.inter, p.lag, stage);
      __syncthreads();
      apply_scores(s, me, stage + 2 * S::kTensorBytes, scores);
      store_out(s, me, chunk_rows(p.o, head, chunk.begin, p.tokens, p.reverse), chunk.length, stage);
    }
    const bool state_is_used = chunk.ends ? p.final_state != nullptr : next.valid;
    if (state_is_used && chunk.length > 0) update_state(s, me, p.added, chunk.length, p.lag, stage);
    if (chunk.ends && p.final_state != nullptr) leave_document(s, me, p, head, chunk.document);
    if (S::kStages == 1) {
      __syncthreads();
      load_chunk<S>(p, head, next, stage);
    }
    const uint32_t used = stage;
    stage = other, other = used;
  }
}

template <class S>
cudaError_t launch(const LightningPass<typename S::T>& p, int multiprocessors, cudaStream_t stream) {
  const auto kernel = portable_kernel<S>;
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (error != cudaSuccess) return error;
  const int blocks = max(p.heads, multiprocessors * (kThreadsOfMultiprocessor / S::kThreads));
  kernel<<<static_cast<unsigned>(blocks), S::kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

// A chunk of 64 where its two stages fit a multiprocessor (all but 8.6, 8.9 and 12.x), else of 32.
template <int kDim, int kTerms>
cudaError_t launch_shape(const LightningPass<Bf16>& p, int multiprocessors, int shared_bytes, cudaStream_t stream) {
  constexpr int kWarps = kDim / 16;
  using Wide = PortableShape<Bf16, kDim, 64, kTerms, kWarps>;
  using Narrow = PortableShape<Bf16, kDim, 32, kTerms, kWarps>;
  return shared_bytes >= Wide::kSharedBytes ? launch<Wide>(p, multiprocessors, stream)
                                            : launch<Narrow>(p, multiprocessors, stream);
}

template <int kDim>
cudaError_t launch_dim(const LightningPass<Bf16>& p, int multiprocessors, int shared_bytes, cudaStream_t stream) {
  return p.mode == LightningMode::kBf16 ? launch_shape<kDim, 1>(p, multiprocessors, shared_bytes, stream)
                                        : launch_shape<kDim, 2>(p, multiprocessors, shared_bytes, stream);
}

// fp32 has one accuracy: that of fp32.
template <int kDim>
cudaError_t launch_dim(const LightningPass<float>& p, int multiprocessors, int, cudaStream_t stream) {
  return launch<PortableShape<float, kDim, 32, 3, kDim / 16>>(p, multiprocessors, stream);
}

}  // namespace

template <class T>
cudaError_t launch_lightning_portable(const LightningPass<T>& p, cudaStream_t stream) {
  if (p.heads == 0 || p.sequences == 0 || (p.tokens == 0 && p.final_state == nullptr)) return cudaSuccess;
  int device = 0, multiprocessors = 0, shared_bytes = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error != cudaSuccess) return error;
  if (p.head_dim == 64) return launch_dim<64>(p, multiprocessors, shared_bytes, stream);
  if (p.head_dim == 128) return launch_dim<128>(p, multiprocessors, shared_bytes, stream);
  return cudaErrorInvalidValue;
}

template cudaError_t launch_lightning_portable(const LightningPass<Bf16>&, cudaStream_t);
template cudaError_t launch_lightning_portable(const LightningPass<float>&, cudaStream_t);

}  // namespace qkr
