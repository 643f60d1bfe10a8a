#include <type_traits>

#include "csrc/adamw/launch.h"
#include "csrc/adamw/masters.cuh"

namespace qkr {
namespace {

constexpr int kThreads = 256, kPack = 8;  // 16 bytes of each half

// A thread owns a pack; block 0 also the elements after the last whole one.
template <int kWidth, class From, class To>
__global__ void __launch_bounds__(kThreads) convert_kernel(From from, To to, int64_t count) {
  const auto convert = [&](auto width, int64_t pack) {
    float w[decltype(width)::value];
    load_master<decltype(width)::value>(from, pack, w);
    store_master<decltype(width)::value>(to, pack, w);
  };
  const int64_t packs = count / kWidth, pack = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pack < packs) convert(std::integral_constant<int, kWidth>{}, pack);
  const int64_t tail = packs * kWidth + threadIdx.x;
  if (kWidth > 1 && blockIdx.x == 0 && tail < count) convert(std::integral_constant<int, 1>{}, tail);
}

template <class From, class To>
cudaError_t launch(const From& from, const To& to, int64_t count, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;  // an empty grid is a launch error
  const auto blocks = [&](int width) { return static_cast<unsigned>((count / width + kThreads) / kThreads); };
  if (is_master_aligned<kPack>(from) && is_master_aligned<kPack>(to)) {
    convert_kernel<kPack><<<blocks(kPack), kThreads, 0, stream>>>(from, to, count);
  } else {
    convert_kernel<1><<<blocks(1), kThreads, 0, stream>>>(from, to, count);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_split_master(const float* master, const SplitMaster& halves, int64_t count, cudaStream_t stream) {
  return launch(Fp32Master{const_cast<float*>(master)}, halves, count, stream);  // only read
}

cudaError_t launch_join_master(const SplitMaster& halves, float* master, int64_t count, cudaStream_t stream) {
  return launch(halves, Fp32Master{master}, count, stream);
}

}  // namespace qkr
