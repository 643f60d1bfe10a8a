#include "csrc/core/pack16.cuh"
#include "csrc/core/sigmoid.cuh"
#include "csrc/gates/launch.h"

namespace qkr {
namespace {

constexpr int kThreads = 256;

template <class T, GateKind kKind, int kPack>
__device__ inline void gate_pack(const RawPack<T, kPack>& raw_gate, const RawPack<T, kPack>& raw_x, T* y,
                                 int64_t pack) {
  float gate[kPack], x[kPack];
  raw_gate.unpack(gate);
  raw_x.unpack(x);
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const float s = sigmoid<T>(gate[j]);
    x[j] *= rounded<T>(kKind == GateKind::kSwiglu ? gate[j] * s : s);
  }
  store_floats<kPack>(y, pack, x);
}

template <class T, GateKind kKind, int kPack>
__device__ inline void gate_grad_pack(const RawPack<T, kPack>& raw_dy, const RawPack<T, kPack>& raw_gate,
                                      const RawPack<T, kPack>& raw_x, T* dgate_out, T* dx_out, int64_t pack) {
  float dy[kPack], gate[kPack], x[kPack];
  raw_dy.unpack(dy);
  raw_gate.unpack(gate);
  raw_x.unpack(x);
#pragma unroll
  for (int j = 0; j < kPack; ++j) {
    const float s = sigmoid<T>(gate[j]);
    const bool swiglu = kKind == GateKind::kSwiglu;
    const float activation = rounded<T>(swiglu ? gate[j] * s : s);
    const float slope = swiglu ? s * (1.f + gate[j] * (1.f - s)) : s * (1.f - s);
    gate[j] = dy[j] * x[j] * slope;
    x[j] = dy[j] * activation;
  }
  store_floats<kPack>(dgate_out, pack, gate);
  store_floats<kPack>(dx_out, pack, x);
}

// A block owns kThreads * kUnroll neighbouring packs of a row, a thread those that are kThreads apart.
constexpr int kUnroll = 2;

struct Place {
  int64_t row, pack;
};

__device__ inline Place place_of_thread(unsigned blocks_per_row) {
  const unsigned row = blockIdx.x / blocks_per_row, block = blockIdx.x % blocks_per_row;
  return {row, static_cast<int64_t>(block) * (kThreads * kUnroll) + threadIdx.x};
}

// Elements after the last whole pack go to the thread that the next pack would belong to.
template <class T, GateKind kKind, int kPack>
__global__ void __launch_bounds__(kThreads) gate_kernel(GateParams<T> p, unsigned blocks_per_row) {
  const Place place = place_of_thread(blocks_per_row);
  const int64_t packs = p.cols / kPack;
  const T* const gate = p.gate + place.row * p.gate_stride;
  const T* const x = p.x + place.row * p.x_stride;
  T* const y = p.y + place.row * p.cols;
  RawPack<T, kPack> raw_gate[kUnroll], raw_x[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t pack = place.pack + i * kThreads;
    if (pack < packs) raw_gate[i] = load_raw<kPack>(gate, pack), raw_x[i] = load_raw<kPack>(x, pack);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t pack = place.pack + i * kThreads;
    if (pack < packs) gate_pack<T, kKind, kPack>(raw_gate[i], raw_x[i], y, pack);
    if (kPack > 1 && pack == packs) {
      for (int64_t d = packs * kPack; d < p.cols; ++d) {
        gate_pack<T, kKind, 1>(load_raw<1>(gate, d), load_raw<1>(x, d), y, d);
      }
    }
  }
}

template <class T, GateKind kKind, int kPack>
__global__ void __launch_bounds__(kThreads) gate_grad_kernel(GateGradParams<T> p, unsigned blocks_per_row) {
  const Place place = place_of_thread(blocks_per_row);
  const int64_t packs = p.cols / kPack;
  const T* const dy = p.dy + place.row * p.dy_stride;
  const T* const gate = p.gate + place.row * p.gate_stride;
  const T* const x = p.x + place.row * p.x_stride;
  T* const dgate = p.dgate + place.row * p.cols;
  T* const dx = p.dx + place.row * p.cols;
  RawPack<T, kPack> raw_dy[kUnroll], raw_gate[kUnroll], raw_x[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t pack = place.pack + i * kThreads;
    if (pack >= packs) continue;
    raw_dy[i] = load_raw<kPack>(dy, pack);
    raw_gate[i] = load_raw<kPack>(gate, pack);
    raw_x[i] = load_raw<kPack>(x, pack);
  }
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const int64_t pack = place.pack + i * kThreads;
    if (pack < packs) gate_grad_pack<T, kKind, kPack>(raw_dy[i], raw_gate[i], raw_x[i], dgate, dx, pack);
    if (kPack > 1 && pack == packs) {
      for (int64_t d = packs * kPack; d < p.cols; ++d) {
        gate_grad_pack<T, kKind, 1>(load_raw<1>(dy, d), load_raw<1>(gate, d), load_raw<1>(x, d), dgate, dx, d);
      }
    }
  }
}

template <class T>
bool is_aligned(const GateParams<T>& p) {
  return is_16_byte_aligned(p.gate, p.gate_stride) && is_16_byte_aligned(p.x, p.x_stride) &&
         is_16_byte_aligned(p.y, p.rows > 1 ? p.cols : 0);
}

template <class T>
bool is_aligned(const GateGradParams<T>& p) {
  return is_16_byte_aligned(p.dy, p.dy_stride) && is_16_byte_aligned(p.gate, p.gate_stride) &&
         is_16_byte_aligned(p.x, p.x_stride) && is_16_byte_aligned(p.dgate, p.rows > 1 ? p.cols : 0) &&
         is_16_byte_aligned(p.dx);
}

unsigned blocks_for_row(int64_t cols, int pack) {
  const int64_t packs = (cols + pack - 1) / pack;  // the elements after the last whole pack count as one
  return static_cast<unsigned>((packs + kThreads * kUnroll - 1) / (kThreads * kUnroll));
}

}  // namespace

template <class T>
cudaError_t launch_gate(const GateParams<T>& p, cudaStream_t stream) {
  if (p.rows == 0 || p.cols == 0) return cudaSuccess;  // an empty grid is a launch error
  const bool aligned = is_aligned(p), swiglu = p.kind == GateKind::kSwiglu;
  const unsigned per_row = blocks_for_row(p.cols, aligned ? kPack16<T> : 1);
  const auto grid = static_cast<unsigned>(p.rows) * per_row;
  if (aligned && swiglu) {
    gate_kernel<T, GateKind::kSwiglu, kPack16<T>><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else if (aligned) {
    gate_kernel<T, GateKind::kSigmoid, kPack16<T>><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else if (swiglu) {
    gate_kernel<T, GateKind::kSwiglu, 1><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else {
    gate_kernel<T, GateKind::kSigmoid, 1><<<grid, kThreads, 0, stream>>>(p, per_row);
  }
  return cudaGetLastError();
}

template <class T>
cudaError_t launch_gate_grad(const GateGradParams<T>& p, cudaStream_t stream) {
  if (p.rows == 0 || p.cols == 0) return cudaSuccess;
  const bool aligned = is_aligned(p), swiglu = p.kind == GateKind::kSwiglu;
  const unsigned per_row = blocks_for_row(p.cols, aligned ? kPack16<T> : 1);
  const auto grid = static_cast<unsigned>(p.rows) * per_row;
  if (aligned && swiglu) {
    gate_grad_kernel<T, GateKind::kSwiglu, kPack16<T>><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else if (aligned) {
    gate_grad_kernel<T, GateKind::kSigmoid, kPack16<T>><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else if (swiglu) {
    gate_grad_kernel<T, GateKind::kSwiglu, 1><<<grid, kThreads, 0, stream>>>(p, per_row);
  } else {
    gate_grad_kernel<T, GateKind::kSigmoid, 1><<<grid, kThreads, 0, stream>>>(p, per_row);
  }
  return cudaGetLastError();
}

template cudaError_t launch_gate(const GateParams<float>&, cudaStream_t);
template cudaError_t launch_gate(const GateParams<Bf16>&, cudaStream_t);
template cudaError_t launch_gate_grad(const GateGradParams<float>&, cudaStream_t);
template cudaError_t launch_gate_grad(const GateGradParams<Bf16>&, cudaStream_t);

}  // namespace qkr
