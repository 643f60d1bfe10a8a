"""Lightning attention beside flash-linear-attention, both from Python, in one run on one GPU.

    pip install fla-core==0.4.2 einops      # the peer; torch 2.11
    python tests/bench/lightning_against_fla.py build/lib/libqk_restore_ops.so

Shapes 1 x T x 32 heads x 128, decay of HypeNet's heads. Times are kernel time by the profiler (host launches taken out) and the
median between CUDA events; errors are relative RMS against the recurrence in float64 on the same bf16 inputs, of the head that
forgets fastest, the slowest, and all together. The peer is called as bf16 (its fast way) and as the official HypeNet code calls it:
cast to fp32, TF32 products, cast back.
"""
import statistics
import sys

import torch

torch.ops.load_library(sys.argv[1])
HEADS, DIM = 32, 128
SLOPES = torch.tensor([2.0 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)], device="cuda")


def ours(q, k, v, accurate):
    boundaries = torch.tensor([0, q.shape[0]], dtype=torch.int32, device="cuda")
    return torch.ops.qk_restore.lightning_attention(q, k, v, SLOPES, boundaries, None, DIM**-0.5, accurate, False)[0]


def fla(q, k, v):
    from fla.ops.simple_gla import chunk_simple_gla
    return chunk_simple_gla(q[None], k[None], v[None], g_gamma=-SLOPES, scale=DIM**-0.5)[0][0]


def official(q, k, v):
    return fla(q.float(), k.float(), v.float()).to(q.dtype)


WAYS = {
    "ours, bf16": lambda q, k, v: ours(q, k, v, False),
    "ours, accurate": lambda q, k, v: ours(q, k, v, True),
    "FLA, bf16": fla,
    "FLA, official call": official,
}


def inputs(tokens):
    torch.manual_seed(tokens)
    return [torch.randn(tokens, HEADS, DIM, device="cuda").bfloat16().requires_grad_() for _ in range(3)]


def by_events(f, repeats=20):
    spans = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in spans:
        start.record(), f(), end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in spans)


def by_kernels(f, repeats=5):
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as p:
        for _ in range(repeats):
            f()
        torch.cuda.synchronize()
    return sum(e.self_device_time_total for e in p.key_averages()) / 1e3 / repeats


def backward_of(way, q, k, v):
    o = way(q, k, v)
    grad = torch.randn_like(o)
    return lambda: torch.autograd.grad(o, (q, k, v), grad, retain_graph=True)


def recurrence(q, k, v):
    state, out = torch.zeros(HEADS, DIM, DIM, device="cuda", dtype=torch.float64), []
    for t in range(q.shape[0]):
        state = state * torch.exp(-SLOPES.double())[:, None, None] + k[t][:, :, None] * v[t][:, None, :]
        out.append(torch.einsum("hk,hkv->hv", q[t], state) * DIM**-0.5)
    return torch.stack(out)


def relative(got, want, head=slice(None)):
    got, want = got.double()[:, head], want[:, head]
    return ((got - want).norm() / want.norm()).item()


def errors(tokens=1024):
    q, k, v = inputs(tokens)
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    truth = recurrence(*exact)
    grad = torch.randn_like(q)
    wanted = torch.autograd.grad(truth, exact, grad.double())
    print(f"\n| relative RMS error, T = {tokens} | o, fastest head | o, slowest head | o | dq | dk | dv |\n|---|--:|--:|--:|--:|--:|--:|")
    for name, way in WAYS.items():
        o = way(q, k, v)
        got = torch.autograd.grad(o, (q, k, v), grad)
        row = [relative(o, truth, 0), relative(o, truth, -1), relative(o, truth)] + [relative(a, b) for a, b in zip(got, wanted)]
        print(f"| {name} | " + " | ".join(f"{x:.2e}" for x in row) + " |", flush=True)


def times():
    print("| pass | T | " + " | ".join(f"{name}: kernels (events), ms" for name in WAYS) + " | FLA bf16 / ours bf16 | official / ours accurate |")
    print("|---|--:|" + "--:|" * (len(WAYS) + 2))
    for tokens in (8192, 32768, 262144):
        for backward in (False, True):
            if backward and tokens > 65536:
                continue
            kernels, events = [], []
            for way in WAYS.values():
                q, k, v = inputs(tokens)
                with torch.set_grad_enabled(backward):
                    f = backward_of(way, q, k, v) if backward else lambda: way(q, k, v)
                    for _ in range(3):
                        f()
                    kernels.append(by_kernels(f))
                    events.append(by_events(f))
                del f, q, k, v
                torch.cuda.empty_cache()
            cells = [f"{a:.3f} ({b:.3f})" for a, b in zip(kernels, events)]
            ratios = [f"{kernels[2] / kernels[0]:.2f}", f"{kernels[3] / kernels[1]:.2f}"]
            print(f"| {'backward' if backward else 'forward'} | {tokens} | " + " | ".join(cells + ratios) + " |", flush=True)


print(torch.cuda.get_device_name())
times()
errors()
