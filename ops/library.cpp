// Every schema of the plugin on one screen. The contracts are in ops/<op>.h.
#include "ops/registration.h"

QKR_LIBRARY(m) {
  // One AdamW step in place, arithmetic in fp32. A bf16 weight needs master_low, the int16 rest of its fp32 master; an fp32
  // weight has none. grad is bf16 or fp32; clip_scale (one fp32 value where the weight is) is multiplied into it.
  m.def(
      "adamw_split_(Tensor(a!) weight, Tensor(b!)? master_low, Tensor grad, Tensor(c!) exp_avg, Tensor(d!) exp_avg_sq, "
      "Tensor? clip_scale, float lr, float beta1, float beta2, float eps, float weight_decay, int step) -> ()");
  // The same for many tensors in few launches. master_lows: one for each weight, all of them bf16, or none.
  m.def(
      "adamw_split_list_(Tensor(a!)[] weights, Tensor(b!)[] master_lows, Tensor[] grads, Tensor(c!)[] exp_avgs, "
      "Tensor(d!)[] exp_avg_sqs, Tensor? clip_scale, float lr, float beta1, float beta2, float eps, float weight_decay, "
      "int step) -> ()");
  // An fp32 master as a bf16 weight and an int16 rest, and back; exact.
  m.def("split_master(Tensor master) -> (Tensor weight, Tensor master_low)");
  m.def("join_master(Tensor weight, Tensor master_low) -> Tensor");

  // The orthogonal matrix nearest to m + anchor * mean|diag m| * I, for each [n, n] of m; fp64 inside.
  // certificate: [..., 8] float64, its columns are PolarColumn of ops/polar.h.
  m.def("polar(Tensor m, float anchor) -> (Tensor r, Tensor certificate)");

  // r = polar(w_pre^T w_post, anchor) [d, d] float64, restored = w_pre r [rows, d] rounded once to w_pre's dtype.
  m.def("procrustes(Tensor w_pre, Tensor w_post, float anchor) -> (Tensor restored, Tensor r, Tensor certificate)");

  // x float64 to a 16-bit dtype with one rounding.
  m.def("round_once(Tensor x, ScalarType dtype) -> Tensor");

  // Rows [..., D], one pass each. rms_norm: round(x / rms(x)) * weight; add_rms_norm: of sum = x + added, and the sum;
  // gated_rms_norm: times sigmoid(gate). The halves take at most one of added and gate; what is absent comes back as [0].
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("add_rms_norm(Tensor x, Tensor added, Tensor weight, float eps) -> (Tensor normed, Tensor sum)");
  m.def("gated_rms_norm(Tensor x, Tensor gate, Tensor weight, float eps) -> Tensor");
  m.def("_rms_norm_fwd(Tensor x, Tensor? added, Tensor? gate, Tensor weight, float eps) -> (Tensor y, Tensor sum)");
  m.def(
      "_rms_norm_bwd(Tensor grad_y, Tensor? grad_sum, Tensor h, Tensor? gate, Tensor weight, float eps) -> "
      "(Tensor grad_h, Tensor grad_gate, Tensor grad_weight)");

  // x [N, H, D] normed per head (weight), rotated (cos, sin [N, D/2]), times factor [N]: each where it is given.
  m.def("qk_norm_rope(Tensor x, Tensor? weight, Tensor? cos, Tensor? sin, Tensor? factor, float eps) -> Tensor");
  m.def(
      "_qk_norm_rope_bwd(Tensor grad, Tensor x, Tensor? weight, Tensor? cos, Tensor? sin, Tensor? factor, float eps) -> "
      "(Tensor grad_x, Tensor grad_weight)");
  // Queries and keys [N, H_kv, D] in one launch; the factor is the queries'.
  m.def(
      "qk_norm_rope_pair(Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor? cos, Tensor? sin, Tensor? factor, "
      "float eps) -> (Tensor q_out, Tensor k_out)");
  m.def(
      "_qk_norm_rope_pair_bwd(Tensor grad_q, Tensor grad_k, Tensor q, Tensor k, Tensor? q_weight, Tensor? k_weight, Tensor? cos, "
      "Tensor? sin, Tensor? factor, float eps) -> (Tensor grad_q, Tensor grad_k, Tensor grad_q_weight, Tensor grad_k_weight)");

  // silu(gate) * x and sigmoid(gate) * x, the activation rounded first.
  m.def("swiglu(Tensor gate, Tensor x) -> Tensor");
  m.def("sigmoid_gate(Tensor gate, Tensor x) -> Tensor");
  m.def("_swiglu_bwd(Tensor grad, Tensor gate, Tensor x) -> (Tensor grad_gate, Tensor grad_x)");
  m.def("_sigmoid_gate_bwd(Tensor grad, Tensor gate, Tensor x) -> (Tensor grad_gate, Tensor grad_x)");

  // weight[tokens], and the gradient of weight [vocabulary, D] from that of the rows: deterministic.
  m.def("embed_tokens(Tensor weight, Tensor tokens) -> Tensor");
  m.def("embedding_grad(Tensor grad, Tensor tokens, int vocabulary) -> Tensor");

  // The LM head at some positions of hidden [N, D] alone: log-probability of each target and how many tokens come before it.
  m.def("answer_logprobs(Tensor hidden, Tensor head_weight, Tensor positions, Tensor targets) -> (Tensor logprob, Tensor rank)");

  // For the rows q [M, H, D] of a few queries: each head's share of attention that falls on the keys of a range. mass [H, M] fp32.
  m.def("needle_attention(Tensor q, Tensor k, Tensor query_positions, Tensor key_ranges, float scale) -> Tensor");

  // S_t = exp(-slope) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t over packed sequences; with_state false: final_state is [0, H, D, D].
  m.def(
      "lightning_attention(Tensor q, Tensor k, Tensor v, Tensor slopes, Tensor cu_seqlens, Tensor? initial_state, float scale, "
      "bool accurate=True, bool with_state=True) -> (Tensor o, Tensor final_state)");
  m.def(
      "_lightning_attention_bwd(Tensor grad_o, Tensor? grad_final_state, Tensor q, Tensor k, Tensor v, Tensor slopes, "
      "Tensor cu_seqlens, Tensor? initial_state, float scale, bool accurate) -> "
      "(Tensor grad_q, Tensor grad_k, Tensor grad_v, Tensor grad_initial_state)");
  m.def(
      "lightning_attention_step_(Tensor q, Tensor k, Tensor v, Tensor slopes, Tensor(a!) state, float scale) -> Tensor");
}
