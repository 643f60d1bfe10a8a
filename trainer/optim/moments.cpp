#include "trainer/optim/moments.h"

#include <ATen/ATen.h>

namespace qkr {

void reset_moments(const NamedTensors& optim_state, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    for (const char* moment : {"exp_avg.", "exp_avg_sq."}) {
      if (const at::Tensor* live = optim_state.find(moment + name)) live->zero_();
    }
  }
}

void rotate_moments(const NamedTensors& optim_state, const std::string& name, const at::Tensor& r) {
  const at::Tensor* mean = optim_state.find("exp_avg." + name);
  const at::Tensor* square = optim_state.find("exp_avg_sq." + name);
  if (mean == nullptr || square == nullptr) return;
  const at::Tensor m = mean->to(at::kDouble), v = square->to(at::kDouble);  // [rows, d]
  const at::Tensor turned = at::mm(m, r);
  mean->copy_(turned);
  // The floor is the square of the stored mean: the rounding of one must not put it above the root of the other.
  const at::Tensor floor = mean->to(at::kDouble).square();
  square->copy_(at::mm((v - m.square()).clamp_min(0), r.square()) + floor);
}

}  // namespace qkr
