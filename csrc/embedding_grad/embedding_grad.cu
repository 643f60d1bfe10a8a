#include "csrc/core/pack16.cuh"
#include "csrc/embedding_grad/launch.h"

namespace qkr {
namespace {

constexpr int kThreads = 128;
constexpr int kAtOnce = 8;  // loads of a thread under way together

template <class T>
__device__ inline bool same_run(const EmbeddingGradParams<T>& p, int64_t a, int64_t b) {
  return a >= 0 && b < p.count && p.tokens[a] == p.tokens[b];
}

template <class T>
__device__ inline T* row_of(const EmbeddingGradParams<T>& p, int64_t token) {
  return token >= 0 && token < p.vocabulary ? p.grad_weight + token * p.cols
                                            : nullptr;  // the forward has refused others
}

// Writes zeros to the rows of tokens that do not occur. A block owns kZeroRows rows.
constexpr int kZeroRows = 8;

template <class T, int kPack>
__device__ inline void zero_absent_rows(const EmbeddingGradParams<T>& p, int64_t block) {
  __shared__ bool absent[kZeroRows];
  const int64_t first = block * kZeroRows;
  if (threadIdx.x < kZeroRows) {
    const int64_t token = first + threadIdx.x;
    int64_t low = 0, high = p.count;  // the first position whose token is not smaller is in [low, high]
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (p.tokens[middle] < token)
        low = middle + 1;
      else
        high = middle;
    }
    absent[threadIdx.x] = token < p.vocabulary && (low == p.count || p.tokens[low] != token);
  }
  __syncthreads();
  const float zeros[kPack] = {};
  for (int r = 0; r < kZeroRows; ++r) {
    if (!absent[r]) continue;
    T* const row = p.grad_weight + (first + r) * p.cols;
    for (int64_t pack = threadIdx.x; pack < p.cols / kPack; pack += kThreads) store_floats<kPack>(row, pack, zeros);
  }
}

// The first `piece_blocks` blocks own a piece and kThreads packs of columns each, the others rows to clear: reading
// and writing together. Slot 0 of a piece's partials: a run that began before it; slot 1: one that begins in it and
// goes on after it.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads)
    pieces_kernel(EmbeddingGradParams<T> p, unsigned piece_blocks, unsigned chunks) {
  if (blockIdx.x >= piece_blocks) return zero_absent_rows<T, kPack>(p, blockIdx.x - piece_blocks);
  const int64_t piece = blockIdx.x / chunks, begin = piece * kEmbeddingPiece;
  const int count = static_cast<int>(p.count - begin < kEmbeddingPiece ? p.count - begin : kEmbeddingPiece);
  const int64_t pack = static_cast<int64_t>(blockIdx.x % chunks) * kThreads + threadIdx.x;
  __shared__ int32_t tokens[kEmbeddingPiece];
  __shared__ int64_t order[kEmbeddingPiece];
  if (static_cast<int>(threadIdx.x) < count) {
    tokens[threadIdx.x] = p.tokens[begin + threadIdx.x];
    order[threadIdx.x] = p.order[begin + threadIdx.x];
  }
  __syncthreads();
  if (pack >= p.cols / kPack) return;
  bool began_before = same_run(p, begin - 1, begin);
  const bool goes_on = same_run(p, begin + count - 1, begin + count);
  float sum[kPack] = {};
  for (int first = 0; first < count; first += kAtOnce) {
    RawPack<T, kPack> raw[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) raw[i] = load_raw<kPack>(p.dy + order[first + i] * p.dy_stride, pack);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = first + i;
      if (at >= count) continue;
      float dy[kPack];
      raw[i].unpack(dy);
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum[j] += dy[j];
      const bool last = at + 1 == count;
      if (!last && tokens[at + 1] == tokens[at]) continue;
      if (began_before || (last && goes_on)) {
        float* const slot = p.partials + (piece * 2 + (began_before ? 0 : 1)) * p.cols;
#pragma unroll
        for (int j = 0; j < kPack; ++j) slot[pack * kPack + j] = sum[j];
      } else if (T* const row = row_of(p, tokens[at])) {
        store_floats<kPack>(row, pack, sum);
      }
      began_before = false;
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum[j] = 0.f;
    }
  }
}

// A block owns the run that begins in its piece and goes on after it, if there is one.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) long_runs_kernel(EmbeddingGradParams<T> p) {
  const int64_t piece = blockIdx.x, begin = piece * kEmbeddingPiece, end = begin + kEmbeddingPiece;
  if (!same_run(p, end - 1, end)) return;
  if (same_run(p, begin - 1, end)) return;  // it began earlier
  const int64_t pack = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  if (pack >= p.cols / kPack) return;
  // the last piece that begins with a token of the run, by halving: a walk would wait for memory at each step
  int64_t last = piece + 1, beyond = (p.count + kEmbeddingPiece - 1) / kEmbeddingPiece;
  while (beyond - last > 1) {
    const int64_t middle = (last + beyond) / 2;
    (p.tokens[middle * kEmbeddingPiece] == p.tokens[end] ? last : beyond) = middle;
  }
  const float* const mine = p.partials + (piece * 2 + 1) * p.cols + pack * kPack;
  float sum[kPack];
#pragma unroll
  for (int j = 0; j < kPack; ++j) sum[j] = mine[j];
#pragma unroll 8
  for (int64_t next = piece + 1; next <= last; ++next) {
    const float* const part = p.partials + next * 2 * p.cols + pack * kPack;
#pragma unroll
    for (int j = 0; j < kPack; ++j) sum[j] += part[j];
  }
  if (T* const row = row_of(p, p.tokens[end])) store_floats<kPack>(row, pack, sum);
}

template <class T, int kPack>
void launch(const EmbeddingGradParams<T>& p, cudaStream_t stream) {
  const auto pieces = static_cast<unsigned>((p.count + kEmbeddingPiece - 1) / kEmbeddingPiece);
  const auto chunks = static_cast<unsigned>((p.cols / kPack + kThreads - 1) / kThreads);
  const auto zero_blocks = static_cast<unsigned>((p.vocabulary + kZeroRows - 1) / kZeroRows);
  pieces_kernel<T, kPack><<<pieces * chunks + zero_blocks, kThreads, 0, stream>>>(p, pieces * chunks, chunks);
  if (pieces > 1) long_runs_kernel<T, kPack><<<dim3(pieces, chunks), kThreads, 0, stream>>>(p);
}

}  // namespace

template <class T>
cudaError_t launch_embedding_grad(const EmbeddingGradParams<T>& p, cudaStream_t stream) {
  if (p.vocabulary == 0 || p.cols == 0) return cudaSuccess;  // an empty grid is a launch error
  constexpr int kPack = kPack16<T>;
  if (p.cols % kPack == 0 && is_16_byte_aligned(p.dy, p.dy_stride) && is_16_byte_aligned(p.grad_weight)) {
    launch<T, kPack>(p, stream);
  } else {
    launch<T, 1>(p, stream);
  }
  return cudaGetLastError();
}

template cudaError_t launch_embedding_grad(const EmbeddingGradParams<float>&, cudaStream_t);
template cudaError_t launch_embedding_grad(const EmbeddingGradParams<Bf16>&, cudaStream_t);

}  // namespace qkr
