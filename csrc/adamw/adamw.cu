#include "csrc/adamw/device.h"
#include "csrc/adamw/launch.h"
#include "csrc/adamw/masters.cuh"

namespace qkr {
namespace {

constexpr int kThreads = 256, kPack = 4;
constexpr int kBlocksPerSm = 5;              // 48 registers a thread: nothing spills
constexpr int kRound = kThreads * kPack;     // elements of one tensor that a block works on at once: a pack a thread
constexpr int kMaxRounds = 8;                // of a chunk: the look-up of its tensor costs as much as one
constexpr int64_t kEnoughChunks = 40 * 132;  // eight for each block that an H200 holds, so that all end together
constexpr int kTensorsAtOnce = 64;           // their table still fits into the 4 KB of a launch's arguments

// The tensors of a launch, cut into chunks that are numbered through.
template <class Master, class Grad, int kTensors>
struct AdamwTable {
  AdamwTensor<Master, Grad> tensors[kTensors];
  int64_t first_chunk[kTensors];
  int64_t chunks = 0;
  int chunk = kRound;  // elements of a chunk
  int tensor_count = 0;
  uint64_t aligned = 0;  // bit i: every array of tensor i can be read kPack elements at a time
  AdamwShared shared;
};

template <int kWidth, class Master, class Grad>
__device__ inline void update_pack(const AdamwTensor<Master, Grad>& t, const AdamwScalars& scalars, float clip_scale,
                                   int64_t pack) {
  float weight[kWidth];
  load_master<kWidth>(t.master, pack, weight);
  const auto grad = load_pack<kWidth>(t.grad, pack);
  auto exp_avg = load_pack<kWidth>(t.exp_avg, pack);
  auto exp_avg_sq = load_pack<kWidth>(t.exp_avg_sq, pack);
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    // __fmul_rn: the product of gradient and scale is rounded before it meets anything else, as on the CPU
    const float g = __fmul_rn(clip_scale, to_float(grad.item[i]));
    const AdamwElement e = adamw_update(scalars, g, {weight[i], exp_avg.item[i], exp_avg_sq.item[i]});
    weight[i] = e.weight;
    exp_avg.item[i] = e.exp_avg;
    exp_avg_sq.item[i] = e.exp_avg_sq;
  }
  store_master<kWidth>(t.master, pack, weight);
  store_pack(t.exp_avg, pack, exp_avg);
  store_pack(t.exp_avg_sq, pack, exp_avg_sq);
}

__device__ inline Fp32Master after(const Fp32Master& m, int64_t elements) { return {m.weight + elements}; }
__device__ inline SplitMaster after(const SplitMaster& m, int64_t elements) {
  return {m.high + elements, m.low + elements};
}

// At most `chunk` elements of t from `begin` on, a multiple of kPack. Packs first; the elements after the last whole
// one, or all of an unaligned tensor's, one by one.
template <class Master, class Grad>
__device__ inline void update_chunk(const AdamwTensor<Master, Grad>& t, bool aligned, const AdamwScalars& scalars,
                                    float clip_scale, int64_t begin, int chunk) {
  const AdamwTensor<Master, Grad> rest{after(t.master, begin), t.grad + begin, t.exp_avg + begin, t.exp_avg_sq + begin,
                                       t.count - begin};
  const int count = rest.count < chunk ? static_cast<int>(rest.count) : chunk;
  const int packs = aligned ? count / kPack : 0;
  for (int pack = static_cast<int>(threadIdx.x); pack < packs; pack += kThreads) {
    update_pack<kPack>(rest, scalars, clip_scale, pack);
  }
  for (int i = packs * kPack + static_cast<int>(threadIdx.x); i < count; i += kThreads) {
    update_pack<1>(rest, scalars, clip_scale, i);
  }
}

// The last tensor whose first chunk is not after `chunk`. Tensors without elements have no chunk and are not in the
// table.
template <class Table>
__device__ inline int tensor_of(const Table& table, int64_t chunk) {
  int found = 0;
#pragma unroll
  for (int step = kTensorsAtOnce / 2; step > 0; step /= 2) {
    const int next = found + step;
    if (next < table.tensor_count && table.first_chunk[next] <= chunk) found = next;
  }
  return found;
}

// A block owns every (grid size)-th chunk. Thread 0 computes what all elements share: two powers for some hundred
// packs.
template <class Master, class Grad, int kTensors>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    adamw_kernel(const __grid_constant__ AdamwTable<Master, Grad, kTensors> table) {
  __shared__ AdamwScalars shared_scalars;
  if (threadIdx.x == 0) shared_scalars = adamw_scalars(table.shared.hyper);
  __syncthreads();
  const AdamwScalars scalars = shared_scalars;
  const float clip_scale = table.shared.clip_scale == nullptr ? 1.f : *table.shared.clip_scale;
  for (int64_t chunk = blockIdx.x; chunk < table.chunks; chunk += gridDim.x) {
    const int i = kTensors == 1 ? 0 : tensor_of(table, chunk);
    const int64_t begin = (chunk - table.first_chunk[i]) * table.chunk;
    update_chunk(table.tensors[i], table.aligned >> i & 1, scalars, clip_scale, begin, table.chunk);
  }
}

template <class Master, class Grad>
bool is_aligned(const AdamwTensor<Master, Grad>& t) {
  return is_master_aligned<kPack>(t.master) && is_pack_aligned<kPack>(t.grad) && is_pack_aligned<kPack>(t.exp_avg) &&
         is_pack_aligned<kPack>(t.exp_avg_sq);
}

template <int kTensors, class Master, class Grad>
cudaError_t launch_table(const AdamwTensor<Master, Grad>* tensors, int64_t count, const AdamwShared& shared,
                         cudaStream_t stream) {
  AdamwTable<Master, Grad, kTensors> table;
  static_assert(sizeof table <= 4096);
  constexpr int64_t kMaxBlocks = 16 * 132;  // two waves of eight blocks on each SM of an H200; the loop does the rest
  table.shared = shared;
  int64_t elements = 0;
  for (int64_t i = 0; i < count; ++i) elements += tensors[i].count;
  const int64_t rounds = elements / (kEnoughChunks * kRound);
  table.chunk = kRound * static_cast<int>(rounds < 1 ? 1 : rounds < kMaxRounds ? rounds : kMaxRounds);
  for (int64_t i = 0; i < count; ++i) {
    if (tensors[i].count == 0) continue;
    const int at = table.tensor_count++;
    table.tensors[at] = tensors[i];
    table.first_chunk[at] = table.chunks;
    table.chunks += (tensors[i].count + table.chunk - 1) / table.chunk;
    table.aligned |= static_cast<uint64_t>(is_aligned(tensors[i])) << at;
  }
  if (table.chunks == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto grid = static_cast<unsigned>(table.chunks < kMaxBlocks ? table.chunks : kMaxBlocks);
  adamw_kernel<<<grid, kThreads, 0, stream>>>(table);
  return cudaGetLastError();
}

}  // namespace

template <class Master, class Grad>
cudaError_t launch_adamw(const AdamwTensor<Master, Grad>* tensors, int64_t count, const AdamwShared& shared,
                         cudaStream_t stream) {
  if (count == 1) return launch_table<1>(tensors, count, shared, stream);
  for (int64_t first = 0; first < count; first += kTensorsAtOnce) {
    const int64_t some = count - first < kTensorsAtOnce ? count - first : kTensorsAtOnce;
    if (const cudaError_t error = launch_table<kTensorsAtOnce>(tensors + first, some, shared, stream)) return error;
  }
  return cudaSuccess;
}

template cudaError_t launch_adamw(const AdamwTensor<Fp32Master, float>*, int64_t, const AdamwShared&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwTensor<Fp32Master, Bf16>*, int64_t, const AdamwShared&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwTensor<SplitMaster, float>*, int64_t, const AdamwShared&, cudaStream_t);
template cudaError_t launch_adamw(const AdamwTensor<SplitMaster, Bf16>*, int64_t, const AdamwShared&, cudaStream_t);

}  // namespace qkr
