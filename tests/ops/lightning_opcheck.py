#!/usr/bin/env python3
"""torch.library.opcheck on the Lightning operators:  lightning_opcheck.py LIBRARY

On the CPU, and on a GPU if there is one, where a captured CUDA graph must follow cu_seqlens and the inputs as they change.
"""
import sys

import torch

ops = torch.ops.qk_restore


def inputs(device, dtype, dim, grad):
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32

    def rows(heads):
        return torch.randn(70, heads, dim, device=device, dtype=dtype, requires_grad=grad)

    slopes = torch.tensor([0.5, 0.2, 0.1, 0.01], device=device, dtype=wide)
    cu_seqlens = torch.tensor([0, 3, 3, 70], device=device, dtype=torch.int32)
    state = torch.randn(3, 4, dim, dim, device=device, dtype=wide, requires_grad=grad)
    return rows(4), rows(2), rows(2), slopes, cu_seqlens, state, 0.25


def check(device, dtype, dim):
    for grad in (False, True):
        q, k, v, slopes, cu_seqlens, state, scale = inputs(device, dtype, dim, grad)
        for initial, with_state in ((state, True), (None, False)):
            args = (q, k, v, slopes, cu_seqlens, initial, scale, True, with_state)
            torch.library.opcheck(ops.lightning_attention.default, args)
    args = [x.detach() if torch.is_tensor(x) else x for x in inputs(device, dtype, dim, False)]
    grad_o = torch.randn_like(args[0])
    torch.library.opcheck(ops._lightning_attention_bwd.default, (grad_o, args[5] * 2, *args, True))
    one = (args[0][:3], args[1][:3], args[2][:3], args[3], args[5], 0.25)
    torch.library.opcheck(ops.lightning_attention_step_.default, one)


def check_graph(dtype, dim):
    q, k, v, slopes, cu_seqlens, state, scale = inputs("cuda", dtype, dim, False)
    call = lambda: ops.lightning_attention(q, k, v, slopes, cu_seqlens, state, scale)
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    cu_seqlens.copy_(torch.tensor([0, 40, 64, 70]))
    q.mul_(-2)
    graph.replay()
    for got, want in zip(captured, call()):
        assert torch.equal(got, want), "the graph's result differs"


def main():
    torch.ops.load_library(sys.argv[1])
    for dtype in (torch.float64, torch.bfloat16):
        check("cpu", dtype, 8)
    if torch.cuda.is_available():
        for dtype in (torch.float32, torch.bfloat16):
            check("cuda", dtype, 64)
            for dim in (64, 128, 24):
                check_graph(dtype, dim)
    print("opcheck: passed")


main()
