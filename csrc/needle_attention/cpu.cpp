#include "csrc/needle_attention/cpu.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "csrc/core/host_device.h"

namespace qkr {
namespace {

constexpr int kLanes = 16;  // partial sums side by side, so that the loop vectorises

template <class T>
__attribute__((always_inline)) inline float dot(const T* a, const T* b, int64_t count) {
  float sums[kLanes] = {};
  int64_t d = 0;
  for (; d + kLanes <= count; d += kLanes) {
    for (int i = 0; i < kLanes; ++i) sums[i] = std::fmaf(to_float(a[d + i]), to_float(b[d + i]), sums[i]);
  }
  for (int i = 0; d < count; ++d, ++i) sums[i] = std::fmaf(to_float(a[d]), to_float(b[d]), sums[i]);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sums[i] += sums[i + width];
  }
  return sums[0];
}

// One pass over the keys: both sums are kept relative to the largest exponent so far.
template <class T>
__attribute__((always_inline)) inline void run(const NeedleAttentionParams<T>& p, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const int64_t h = i / p.queries, m = i % p.queries;
    const T* const q = p.q + m * p.q_row + h * p.q_head;
    const T* const k = p.k + h / (p.heads / p.kv_heads) * p.k_head;
    const int64_t seen = p.positions[m] < p.keys ? p.positions[m] + 1 : p.keys;
    const int64_t from = p.ranges[2 * m], to = p.ranges[2 * m + 1];
    float top = -std::numeric_limits<float>::infinity();
    double all = 0, part = 0;
    for (int64_t j = 0; j < seen; ++j) {
      const float x = p.scale * dot(q, k + j * p.k_row, p.head_dim);
      if (x > top) {
        const double shrink = std::exp(top - x);
        all *= shrink;
        part *= shrink;
        top = x;
      }
      const double e = std::exp(x - top);
      all += e;
      if (from <= j && j < to) part += e;
    }
    p.mass[i] = seen > 0 ? static_cast<float>(part / all) : 0.f;
  }
}

}  // namespace

QKR_CPU_CLONES void needle_attention_cpu(const NeedleAttentionParams<float>& p, int64_t begin, int64_t end) { run(p, begin, end); }
QKR_CPU_CLONES void needle_attention_cpu(const NeedleAttentionParams<Bf16>& p, int64_t begin, int64_t end) { run(p, begin, end); }

}  // namespace qkr
