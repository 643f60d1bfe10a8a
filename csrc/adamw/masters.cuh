// Both kinds of master read and written kPack neighbours at a time.
#pragma once

#include "csrc/adamw/device.h"
#include "csrc/core/vec.cuh"

namespace qkr {

template <int kPack>
__device__ inline void load_master(const Fp32Master& m, int64_t pack, float (&w)[kPack]) {
  const auto weight = load_pack<kPack>(m.weight, pack);
  for (int i = 0; i < kPack; ++i) w[i] = weight.item[i];
}

template <int kPack>
__device__ inline void load_master(const SplitMaster& m, int64_t pack, float (&w)[kPack]) {
  const auto high = load_pack<kPack>(m.high, pack);
  const auto low = load_pack<kPack>(m.low, pack);
  for (int i = 0; i < kPack; ++i) w[i] = join_master_value(high.item[i], low.item[i]);
}

template <int kPack>
__device__ inline void store_master(const Fp32Master& m, int64_t pack, const float (&w)[kPack]) {
  Pack<float, kPack> weight;
  for (int i = 0; i < kPack; ++i) weight.item[i] = w[i];
  store_pack(m.weight, pack, weight);
}

template <int kPack>
__device__ inline void store_master(const SplitMaster& m, int64_t pack, const float (&w)[kPack]) {
  Pack<Bf16, kPack> high;
  Pack<int16_t, kPack> low;
  for (int i = 0; i < kPack; ++i) {
    high.item[i].bits = master_high_bits(bits_of(w[i]));
    low.item[i] = master_low_bits(bits_of(w[i]));
  }
  store_pack(m.high, pack, high);
  store_pack(m.low, pack, low);
}

template <int kPack>
bool is_master_aligned(const Fp32Master& m) {
  return is_pack_aligned<kPack>(m.weight);
}
template <int kPack>
bool is_master_aligned(const SplitMaster& m) {
  return is_pack_aligned<kPack>(m.high) && is_pack_aligned<kPack>(m.low);
}

}  // namespace qkr
