// What becomes of Adam's moments when a weight is overwritten between two steps (a restore). Weights without moments (frozen ones)
// are passed over. The step count of the bias correction goes on: the update after a reset is at most
// lr (1 - beta1) / sqrt(1 - beta2) an element, 0.45 lr at the default 0.9 and 0.95.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "trainer/core/named_tensors.h"

namespace qkr {

// Both moments become 0: nothing is known of the gradients at the new weights.
void reset_moments(const NamedTensors& optim_state, const std::vector<std::string>& names);

// The moments of a weight [rows, d] are turned with its columns, as W -> W r turns them. fp64, one rounding.
//   m <- m r, exactly what gradients that turned with the weight would have left, as m is linear in them.
//   v <- max(v - m^2, 0) (r o r) + (m r)^2, o elementwise. v is quadratic: a turned one needs the gradients' covariances, of which
//        v - m^2 has the diagonal. Taking the rest as 0 the variance of a coordinate j is sum_k (v_k - m_k^2) r_kj^2; the mean's
//        part is exact. Never negative, and never below m^2, so that no update exceeds lr (with v (r o r) alone a mean that turns
//        into one coordinate would give sqrt(d) lr). r = I leaves v where v >= m^2; where it is not, after a sudden large gradient,
//        v becomes m^2. The sum of max(v, m^2) over a row does not change.
void rotate_moments(const NamedTensors& optim_state, const std::string& name,
                    const at::Tensor& r);  // [d, d] fp64 orthogonal, on the device of the moments

}  // namespace qkr
