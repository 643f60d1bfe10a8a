// kPack neighbours moved by one load or store of kPack * sizeof(T) bytes; the pointer must be aligned to that.
#pragma once

#include <cstdint>

namespace qkr {

template <class T, int kPack>
struct alignas(sizeof(T) * kPack) Pack {
  T item[kPack];
};

template <int kPack, class T>
__device__ inline Pack<T, kPack> load_pack(const T* data, int64_t pack) {
  return reinterpret_cast<const Pack<T, kPack>*>(data)[pack];
}

template <int kPack, class T>
__device__ inline void store_pack(T* data, int64_t pack, const Pack<T, kPack>& value) {
  reinterpret_cast<Pack<T, kPack>*>(data)[pack] = value;
}

template <int kPack, class T>
inline bool is_pack_aligned(const T* data) {
  return reinterpret_cast<uintptr_t>(data) % (sizeof(T) * kPack) == 0;
}

}  // namespace qkr
