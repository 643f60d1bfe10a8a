#include "csrc/adamw/cpu.h"

#include "csrc/adamw/device.h"

namespace qkr {
namespace {

inline float load(const Fp32Master& m, int64_t i) { return m.weight[i]; }
inline float load(const SplitMaster& m, int64_t i) { return join_master_value(m.high[i], m.low[i]); }

inline void store(const Fp32Master& m, int64_t i, float x) { m.weight[i] = x; }
inline void store(const SplitMaster& m, int64_t i, float x) {
  m.high[i].bits = master_high_bits(bits_of(x));
  m.low[i] = master_low_bits(bits_of(x));
}

template <class Master, class Grad>
__attribute__((always_inline)) inline void run(const AdamwParams<Master, Grad>& p, int64_t begin, int64_t end) {
  const AdamwScalars scalars = adamw_scalars(p.hyper);
  const float clip_scale = p.clip_scale == nullptr ? 1.f : *p.clip_scale;
  const Master master = p.master;
  const Grad* const grad = p.grad;
  float* const exp_avg = p.exp_avg;
  float* const exp_avg_sq = p.exp_avg_sq;
#pragma GCC ivdep
  for (int64_t i = begin; i < end; ++i) {
    const AdamwElement e =
        adamw_update(scalars, clip_scale * to_float(grad[i]), {load(master, i), exp_avg[i], exp_avg_sq[i]});
    store(master, i, e.weight);
    exp_avg[i] = e.exp_avg;
    exp_avg_sq[i] = e.exp_avg_sq;
  }
}

}  // namespace

QKR_CPU_CLONES void adamw_cpu(const AdamwParams<Fp32Master, float>& p, int64_t begin, int64_t end) {
  run(p, begin, end);
}
QKR_CPU_CLONES void adamw_cpu(const AdamwParams<Fp32Master, Bf16>& p, int64_t begin, int64_t end) {
  run(p, begin, end);
}
QKR_CPU_CLONES void adamw_cpu(const AdamwParams<SplitMaster, float>& p, int64_t begin, int64_t end) {
  run(p, begin, end);
}
QKR_CPU_CLONES void adamw_cpu(const AdamwParams<SplitMaster, Bf16>& p, int64_t begin, int64_t end) {
  run(p, begin, end);
}

}  // namespace qkr
