// Every schema of the plugin on one screen. The contracts are in ops/<op>.h.
#include <torch/library.h>

TORCH_LIBRARY(qk_restore, m) {
  // One AdamW step in place, arithmetic in fp32. A bf16 weight needs master_low, the int16 rest of its fp32 master; an fp32
  // weight has none. grad is bf16 or fp32; clip_scale (one fp32 value where the weight is) is multiplied into it.
  m.def(
      "adamw_split_(Tensor(a!) weight, Tensor(b!)? master_low, Tensor grad, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, "
      "Tensor? clip_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int step) -> ()");

  // The orthogonal matrix nearest to m + anchor * mean|diag m| * I, for each [n, n] of m; fp64 inside.
  // certificate: [..., 8] float64, its columns are PolarColumn of ops/polar.h.
  m.def("polar(Tensor m, float anchor) -> (Tensor r, Tensor certificate)");

  // r = polar(w_pre^T w_post, anchor) [d, d] float64, restored = w_pre r [rows, d] rounded once to w_pre's dtype.
  m.def("procrustes(Tensor w_pre, Tensor w_post, float anchor) -> (Tensor restored, Tensor r, Tensor certificate)");
}
