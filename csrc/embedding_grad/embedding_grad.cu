#include "csrc/core/pack16.cuh"
#include "csrc/core/vec.cuh"
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

// The columns of a pack that the calling thread owns, or -1.
template <class T, int kPack>
__device__ inline int64_t own_pack(const EmbeddingGradParams<T>& p) {
  const int64_t pack = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  return pack < p.cols / kPack ? pack : -1;
}

// Adds `count` rows of kPack columns, `stride` floats apart, in order.
template <int kPack>
__device__ inline void add_rows(const float* rows, int64_t count, int64_t stride, float (&sum)[kPack]) {
  for (int64_t first = 0; first < count; first += kAtOnce) {
    Pack<float, kPack> part[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i < count) part[i] = load_pack<kPack>(rows + (first + i) * stride, 0);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (first + i >= count) break;
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum[j] += part[i].item[j];
    }
  }
}

// A block owns a group of pieces; nothing to do unless one run began before it and reaches its last piece.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) groups_kernel(EmbeddingGradParams<T> p) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kEmbeddingGroup, last = first + kEmbeddingGroup - 1;
  if (!same_run(p, first * kEmbeddingPiece - 1, last * kEmbeddingPiece)) return;
  const int64_t pack = own_pack<T, kPack>(p);
  if (pack < 0) return;
  float sum[kPack] = {};
  const int64_t count = embedding_pieces(p.count) - first;  // asked for, not known: a constant lets the compiler part the loads
  add_rows<kPack>(p.partials + first * 2 * p.cols + pack * kPack, count < kEmbeddingGroup ? count : kEmbeddingGroup, 2 * p.cols,
                  sum);
#pragma unroll
  for (int j = 0; j < kPack; ++j) p.groups[blockIdx.x * p.cols + pack * kPack + j] = sum[j];
}

// The last piece that begins with a token of the run at position `at`, by halving: a walk would wait for memory at each
// step. `piece` is one that does.
template <class T>
__device__ inline int64_t last_piece(const EmbeddingGradParams<T>& p, int64_t piece, int64_t at) {
  int64_t beyond = embedding_pieces(p.count);
  while (beyond - piece > 1) {
    const int64_t middle = (piece + beyond) / 2;
    (p.tokens[middle * kEmbeddingPiece] == p.tokens[at] ? piece : beyond) = middle;
  }
  return piece;
}

// A block owns the run that begins in its piece and goes on after it, if there is one.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads) long_runs_kernel(EmbeddingGradParams<T> p) {
  const int64_t piece = blockIdx.x, begin = piece * kEmbeddingPiece, end = begin + kEmbeddingPiece;
  if (!same_run(p, end - 1, end)) return;
  if (same_run(p, begin - 1, end)) return;  // it began earlier
  const int64_t pack = own_pack<T, kPack>(p);
  if (pack < 0) return;
  const int64_t next = piece + 1, beyond = last_piece(p, next, end) + 1;
  const float* const pieces = p.partials + pack * kPack;
  const float* const groups = p.groups + pack * kPack;
  float sum[kPack] = {};
  add_rows<kPack>(pieces + (piece * 2 + 1) * p.cols, 1, 0, sum);
  const int64_t group = (next + kEmbeddingGroup - 1) / kEmbeddingGroup, group_end = beyond / kEmbeddingGroup;
  if (group < group_end) {
    add_rows<kPack>(pieces + next * 2 * p.cols, group * kEmbeddingGroup - next, 2 * p.cols, sum);
    add_rows<kPack>(groups + group * p.cols, group_end - group, p.cols, sum);
    const int64_t rest = group_end * kEmbeddingGroup;
    add_rows<kPack>(pieces + rest * 2 * p.cols, beyond - rest, 2 * p.cols, sum);
  } else {
    add_rows<kPack>(pieces + next * 2 * p.cols, beyond - next, 2 * p.cols, sum);
  }
  if (T* const row = row_of(p, p.tokens[end])) store_floats<kPack>(row, pack, sum);
}

template <class T, int kPack>
void launch(const EmbeddingGradParams<T>& p, cudaStream_t stream) {
  const auto pieces = static_cast<unsigned>(embedding_pieces(p.count));
  const auto groups = static_cast<unsigned>(embedding_groups(p.count));
  const auto chunks = static_cast<unsigned>((p.cols / kPack + kThreads - 1) / kThreads);
  const auto zero_blocks = static_cast<unsigned>((p.vocabulary + kZeroRows - 1) / kZeroRows);
  pieces_kernel<T, kPack><<<pieces * chunks + zero_blocks, kThreads, 0, stream>>>(p, pieces * chunks, chunks);
  if (groups > 0) groups_kernel<T, kPack><<<dim3(groups, chunks), kThreads, 0, stream>>>(p);
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
