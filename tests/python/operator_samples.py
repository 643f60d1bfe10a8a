"""Arguments for every operator: what opcheck, torch.compile and autocast are tried on. A new operator needs a line here."""

import torch


def tensor(*shape, device, dtype=torch.float32, grad=False, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    value = torch.randn(*shape, generator=generator).to(device=device, dtype=dtype)
    return value.requires_grad_(grad)


def norm_samples(name, device, dtype):
    def make(*shape, grad=True, seed=0):
        return tensor(*shape, device=device, dtype=dtype, grad=grad, seed=seed)

    x, other, weight = make(5, 16), make(5, 16, seed=1), make(16)
    return {
        "rms_norm": [(x, weight, 1e-6)],
        "add_rms_norm": [(x, other, weight, 1e-6)],
        "gated_rms_norm": [(x, other, weight, 1e-6)],
        "_rms_norm_fwd": [
            (x.detach(), None, None, weight.detach(), 1e-6),
            (x.detach(), other.detach(), None, weight.detach(), 1e-6),
            (x.detach(), None, other.detach(), weight.detach(), 1e-6),
        ],
        "_rms_norm_bwd": [
            (x.detach(), None, other.detach(), None, weight.detach(), 1e-6),
            (x.detach(), x.detach(), other.detach(), None, weight.detach(), 1e-6),
            (x.detach(), None, other.detach(), x.detach() * 2, weight.detach(), 1e-6),
        ],
        "swiglu": [(x, other)],
        "sigmoid_gate": [(x, other)],
        "_swiglu_bwd": [(x.detach(), other.detach(), x.detach() * 2)],
        "_sigmoid_gate_bwd": [(x.detach(), other.detach(), x.detach() * 2)],
    }.get(name)


def rope_samples(name, device, dtype):
    x, weight = tensor(6, 4, 8, device=device, dtype=dtype, grad=True), tensor(8, device=device, dtype=dtype, grad=True)
    cos, sin = (tensor(6, 4, device=device, dtype=dtype, seed=s) for s in (1, 2))
    factor = tensor(6, device=device)
    grad = tensor(6, 4, 8, device=device, dtype=dtype, seed=3)
    keys, key_weight = tensor(6, 2, 8, device=device, dtype=dtype, grad=True), tensor(8, device=device, dtype=dtype, grad=True, seed=4)
    return {
        "qk_norm_rope": [
            (x, weight, cos, sin, factor, 1e-6),
            (x, None, cos, sin, None, 1e-6),
            (x, weight, None, None, None, 1e-6),
        ],
        "_qk_norm_rope_bwd": [
            (grad, x.detach(), weight.detach(), cos, sin, factor, 1e-6),
            (grad, x.detach(), None, cos, sin, None, 1e-6),
        ],
        "qk_norm_rope_pair": [
            (x, keys, weight, key_weight, cos, sin, factor, 1e-6),
            (x, keys, None, None, cos, sin, None, 1e-6),
        ],
        "_qk_norm_rope_pair_bwd": [
            (grad, grad[:, :2].clone(), x.detach(), keys.detach(), weight.detach(), key_weight.detach(), cos, sin, factor, 1e-6),
            (grad, grad[:, :2].clone(), x.detach(), keys.detach(), None, None, cos, sin, None, 1e-6),
        ],
    }.get(name)


def lightning_samples(name, device, dtype):
    heads, kv_heads, dim = 4, 2, 64

    def make(*shape, grad=True, seed=0):
        return tensor(*shape, device=device, dtype=dtype, grad=grad, seed=seed)

    q, k, v = make(70, heads, dim), make(70, kv_heads, dim), make(70, kv_heads, dim, seed=1)
    slopes = torch.linspace(0.05, 0.8, heads, device=device)
    ends = torch.tensor([0, 3, 70], dtype=torch.int32, device=device)
    state = tensor(2, heads, dim, dim, device=device)
    step = [make(2, h, dim, grad=False, seed=s) for s, h in enumerate((heads, kv_heads, kv_heads))]
    return {
        "lightning_attention": [
            (q, k, v, slopes, ends, state.clone().requires_grad_(), 0.125, True, True),
            (q, k, v, slopes, ends, None, 0.125, False, False),
        ],
        "_lightning_attention_bwd": [
            (q.detach() * 2, state * 2, q.detach(), k.detach(), v.detach(), slopes, ends, state, 0.125, True),
            (q.detach() * 2, None, q.detach(), k.detach(), v.detach(), slopes, ends, None, 0.125, False),
        ],
        "lightning_attention_step_": [(*step, slopes, state, 0.125)],
    }.get(name)


def rest_samples(name, device, dtype):
    tokens = torch.tensor([3, 0, 3, 6], device=device)
    weight = tensor(7, 8, device=device, dtype=dtype, grad=True)
    positions, targets = torch.tensor([1, 4], device=device), torch.tensor([6, 0], device=device)
    matrix = tensor(3, 12, 12, device=device)
    w_pre = tensor(20, 12, device=device, dtype=dtype)
    w_post = w_pre + 0.1 * tensor(20, 12, device=device, dtype=dtype, seed=1)
    queries, keys = tensor(2, 4, 8, device=device, dtype=dtype), tensor(6, 2, 8, device=device, dtype=dtype)
    ranges = torch.tensor([[0, 2], [3, 9]], device=device)
    moments = [tensor(9, device=device, seed=s).abs() for s in (1, 2)]
    step = (1e-3, 0.9, 0.95, 1e-8, 0.01, 3)
    bf16 = tensor(9, device=device, dtype=torch.bfloat16)
    low = torch.zeros(9, dtype=torch.int16, device=device)
    return {
        "embed_tokens": [(weight, tokens)],
        "embedding_grad": [(tensor(4, 8, device=device, dtype=dtype), tokens, 7)],
        "answer_logprobs": [(tensor(5, 8, device=device, dtype=dtype), weight.detach(), positions, targets)],
        "needle_attention": [(queries, keys, positions, ranges, 0.35)],
        "polar": [(matrix, 0.01), (matrix.double()[0], 0.0)],
        "procrustes": [(w_pre, w_post, 0.01)],
        "split_master": [(tensor(3, 5, device=device),)],
        "join_master": [(bf16, low)],
        "round_once": [(tensor(3, 5, device=device).double(), dtype)],
        "adamw_split_list_": [
            ([bf16], [low], [bf16.clone()], moments[:1], moments[1:], torch.ones(1, device=device), *step),
            ([tensor(9, device=device)], [], [tensor(9, device=device, seed=4)], moments[:1], moments[1:], None, *step),
        ],
        "adamw_split_": [
            (bf16, low, bf16.clone(), *moments, torch.ones(1, device=device), *step),
            (tensor(9, device=device), None, tensor(9, device=device, seed=4), *moments, None, *step),
        ],
    }.get(name)


def samples(name, device, dtype=torch.float32):
    """Lists of arguments of torch.ops.qk_restore.<name>, or None for an operator that this file does not know."""
    for group in (norm_samples, rope_samples, lightning_samples, rest_samples):
        found = group(name, device, dtype)
        if found is not None:
            return found
    return None
