"""The operators, typed and documented. Each is torch.ops.qk_restore.<name>: autograd, autocast, torch.compile and torch.export see that.

Letters in shapes: N tokens of a packed row, H heads, D last axis or head size, V vocabulary, S sequences. Wrong arguments raise
RuntimeError "<operator>: <argument> must <rule>, got <value>". Kernels serve bf16 and fp32 on CUDA; everything else runs through ATen.
Under torch.autocast the norms, gates, rotary and attention operators take the narrow type; add_rms_norm and answer_logprobs take the
widest of their inputs; the rest run in their own dtype.
"""

from typing import Optional

import torch
from torch import Tensor

__all__ = [
    "adamw_split_",
    "adamw_split_list_",
    "add_rms_norm",
    "answer_logprobs",
    "embed_tokens",
    "embedding_grad",
    "gated_rms_norm",
    "join_master",
    "lightning_attention",
    "lightning_attention_step_",
    "needle_attention",
    "polar",
    "procrustes",
    "qk_norm_rope",
    "qk_norm_rope_pair",
    "rms_norm",
    "round_once",
    "sigmoid_gate",
    "split_master",
    "swiglu",
]

_ops = torch.ops.qk_restore


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """round(x / rms(x)) * weight with rms(v) = sqrt(mean(v^2) + eps), over the last axis. Zhang & Sennrich 2019 (arXiv 1910.07467).

    x: [..., D]; weight: [D], of x's dtype (bf16, fp16, fp32, fp64). Returns [..., D]. fp32 inside, one rounding before the weight.
    Differentiable once in both; deterministic.
    """
    return _ops.rms_norm(x, weight, eps)


def add_rms_norm(x: Tensor, added: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """(rms_norm(h), h) with h = x + added, in one pass: a residual addition and the norm behind it.

    x, added: [..., D]; weight: [D]; one dtype. Returns normed [..., D] and h [..., D].
    """
    return _ops.add_rms_norm(x, added, weight, eps)


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """rms_norm(x) * sigmoid(gate), in one pass. x, gate: [..., D]; weight: [D]; one dtype. Returns [..., D]."""
    return _ops.gated_rms_norm(x, gate, weight, eps)


def qk_norm_rope(
    x: Tensor,
    weight: Optional[Tensor] = None,
    cos: Optional[Tensor] = None,
    sin: Optional[Tensor] = None,
    factor: Optional[Tensor] = None,
    eps: float = 1e-6,
) -> Tensor:
    """factor[n] * rope(rms_norm(x[n, h, :])), each step only where it is given: queries or keys on their way to attention.

    x: [N, H, D]; weight: [D] of x's dtype, the gain of a norm per head; cos, sin: [N, D/2] of x's dtype, pairs (j, j + D/2), both or
    neither; factor: [N] fp32 (fp64 for fp64). Returns [N, H, D], dense. Differentiable once in x and weight.
    """
    return _ops.qk_norm_rope(x, weight, cos, sin, factor, eps)


def qk_norm_rope_pair(
    q: Tensor,
    k: Tensor,
    q_weight: Optional[Tensor] = None,
    k_weight: Optional[Tensor] = None,
    cos: Optional[Tensor] = None,
    sin: Optional[Tensor] = None,
    factor: Optional[Tensor] = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """qk_norm_rope of q [N, H, D] with q_weight and factor, and of k [N, H_kv, D] with k_weight and without a factor, in one launch.

    Both weights or neither; cos and sin serve both. Returns q and k, dense. Differentiable once in q, k and the weights.
    """
    return _ops.qk_norm_rope_pair(q, k, q_weight, k_weight, cos, sin, factor, eps)


def swiglu(gate: Tensor, x: Tensor) -> Tensor:
    """silu(gate) * x, the activation rounded first. Shazeer 2020 (arXiv 2002.05202). gate, x: [..., D], one dtype. Returns [..., D]."""
    return _ops.swiglu(gate, x)


def sigmoid_gate(gate: Tensor, x: Tensor) -> Tensor:
    """sigmoid(gate) * x, the activation rounded first. gate, x: [..., D], one dtype. Returns [..., D]."""
    return _ops.sigmoid_gate(gate, x)


def embed_tokens(weight: Tensor, tokens: Tensor) -> Tensor:
    """weight[tokens], with a gradient that is the same on every run. weight: [V, D]; tokens: [N] int64 in [0, V). Returns [N, D]."""
    return _ops.embed_tokens(weight, tokens)


def embedding_grad(grad: Tensor, tokens: Tensor, vocabulary: int) -> Tensor:
    """The gradient of embed_tokens' weight: rows of grad added up by token in fp32, in a fixed order, without atomics.

    grad: [N, D]; tokens: [N] int64 in [0, vocabulary). Returns [vocabulary, D] of grad's dtype.
    """
    return _ops.embedding_grad(grad, tokens, vocabulary)


def lightning_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slopes: Tensor,
    cu_seqlens: Tensor,
    initial_state: Optional[Tensor] = None,
    scale: float = 1.0,
    accurate: bool = True,
    with_state: bool = True,
) -> tuple[Tensor, Tensor]:
    """Linear attention with one constant decay per head over packed sequences: S_t = exp(-slope) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t.

    Qin et al. 2024 (arXiv 2405.17381). q: [N, H, D]; k, v: [N, H_kv, D], head h reads h // (H / H_kv); slopes: [H] fp32, > 0;
    cu_seqlens: [S + 1] int32 from 0 to N on q's device; initial_state: [S, H, D, D] fp32 (key x value), 0 if absent. bf16, fp32 or fp64
    (then all fp64). accurate: bf16 on CUDA with an error of the output's rounding alone. Returns o [N, H, D] and the last states
    [S, H, D, D], or [0, H, D, D] without with_state. Differentiable once in q, k, v, initial_state; deterministic.
    """
    return _ops.lightning_attention(q, k, v, slopes, cu_seqlens, initial_state, scale, accurate, with_state)


def lightning_attention_step_(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, scale: float = 1.0) -> Tensor:
    """One more token of each of S sequences; state [S, H, D, D] becomes the next, in place. No derivative.

    q: [S, H, D]; k, v: [S, H_kv, D]; slopes: [H]. Returns o [S, H, D].
    """
    return _ops.lightning_attention_step_(q, k, v, slopes, state, scale)


def answer_logprobs(hidden: Tensor, head_weight: Tensor, positions: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The LM head at some positions alone: how likely each target is, and how many tokens are more likely. Never [N, V]. No derivative.

    hidden: [N, D]; head_weight: [V, D], the same dtype; positions: [A] int64 in [0, N); targets: [A] int64 in [0, V).
    Returns logprob [A] fp32 (natural logarithm; fp64 for fp64) and rank [A] int64: 0 is what greedy decoding takes.
    """
    return _ops.answer_logprobs(hidden, head_weight, positions, targets)


def needle_attention(q: Tensor, k: Tensor, query_positions: Tensor, key_ranges: Tensor, scale: float) -> Tensor:
    """Each head's share of attention on a range of keys, for a few queries: whether a head still finds a needle. No derivative.

    q: [M, H, D] bf16 or fp32, the queries' rows alone; k: [N, KV, D], the same dtype; query_positions: [M] int64, counted as k's rows (a
    query sees the keys up to its own); key_ranges: [M, 2] int64, from and up to. Returns mass [H, M] fp32, 0 where no key of the range is
    seen.
    """
    return _ops.needle_attention(q, k, query_positions, key_ranges, scale)


def polar(m: Tensor, anchor: float = 0.0) -> tuple[Tensor, Tensor]:
    """The orthogonal matrix nearest to m + anchor * mean|diag m| * I, with a certificate that it is. fp64 inside; no derivative.

    m: [..., n, n] fp32 or fp64; anchor >= 0. Returns r [..., n, n] and certificate [..., 8] fp64: orthogonality ||R^T R - I|| / sqrt(n),
    skew ||H - H^T|| / ||M|| of H = R^T M, 1 if H is positive definite, iterations, relative gap bound (how far any better matrix could
    be), 1 if the SVD was asked, condition number of M, flags (1: M = 0, 2: rank deficient). Chen & Chow 2014; Higham 2008, ch. 8.
    RuntimeError naming the matrix if m holds NaN or Inf.
    """
    return _ops.polar(m, anchor)


def procrustes(w_pre: Tensor, w_post: Tensor, anchor: float = 1e-2) -> tuple[Tensor, Tensor, Tensor]:
    """w_pre R with R = argmin over orthogonal R of ||w_pre R - w_post||^2 + mu ||R - I||^2, mu = anchor * mean|diag(w_pre^T w_post)|.

    w_pre, w_post: [rows, d] of one dtype (bf16, fp16, fp32, fp64): a layer's W_Q over its W_K, before and after. Returns restored
    [rows, d], rounded once to w_pre's dtype; R [d, d] fp64; the certificate [8] of polar(). Schoenemann 1966. No derivative.
    """
    return _ops.procrustes(w_pre, w_post, anchor)


def adamw_split_(
    weight: Tensor,
    master_low: Optional[Tensor],
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    clip_scale: Optional[Tensor] = None,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: int,
) -> None:
    """One AdamW step in place, fp32 arithmetic. Loshchilov & Hutter 2019 (arXiv 1711.05101).

    weight: bf16 or fp32, contiguous; master_low: int16 of the same shape for bf16 weights (the lower half of the fp32 master; zeros to
    begin with), None for fp32; grad: bf16 or fp32; exp_avg, exp_avg_sq: fp32; clip_scale: one fp32 value that is multiplied into grad.
    step: 1 for the first update.
    """
    _ops.adamw_split_(weight, master_low, grad, exp_avg, exp_avg_sq, clip_scale, lr, beta1, beta2, eps, weight_decay, step)


def adamw_split_list_(
    weights: list[Tensor],
    master_lows: list[Tensor],
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    clip_scale: Optional[Tensor] = None,
    *,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    step: int,
) -> None:
    """adamw_split_ of many tensors in few launches, in place. master_lows: one for each weight, all of them bf16, or an empty list."""
    _ops.adamw_split_list_(weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, lr, beta1, beta2, eps, weight_decay, step)


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 tensor as a bf16 weight (rounded half up in magnitude) and the int16 rest that join_master needs: exact, bit for bit.

    master: [...] fp32. Returns weight [...] bf16 and master_low [...] int16; a NaN stays a NaN.
    """
    return _ops.split_master(master)


def join_master(weight: Tensor, master_low: Tensor) -> Tensor:
    """The fp32 tensor [...] that split_master made weight [...] bf16 and master_low [...] int16 of."""
    return _ops.join_master(weight, master_low)


def round_once(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x [...] fp64 to dtype (bf16, fp16, fp32, fp64) by one rounding to nearest even; x.to(dtype) goes through fp32 and rounds twice."""
    return _ops.round_once(x, dtype)
