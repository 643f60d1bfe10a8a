#!/usr/bin/env python3
"""torch.library.opcheck on the operators around attention and in the optimizer:  pointwise_opcheck.py LIBRARY

On the CPU, and on a GPU if there is one.
"""
import sys

import torch

ops = torch.ops.qk_restore


def check_pair(device, dtype):
    def heads(count):
        return torch.randn(6, count, 8, device=device, dtype=dtype)

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    cos, sin = (torch.rand(6, 4, device=device, dtype=dtype) for _ in range(2))
    factor = torch.rand(6, device=device, dtype=wide)
    for norm in (True, False):
        weights = [torch.rand(8, device=device, dtype=dtype) if norm else None for _ in range(2)]
        for tables, scale in (((cos, sin), factor), ((cos, sin), None), ((None, None), factor)):
            for grad in (False, True):
                q, k = heads(4).requires_grad_(grad), heads(2).requires_grad_(grad)
                rest = [w.clone().requires_grad_(grad) if norm else None for w in weights]
                torch.library.opcheck(ops.qk_norm_rope_pair.default, (q, k, *rest, *tables, scale, 1e-6))
            args = (heads(4), heads(2), heads(4), heads(2), *weights, *tables, scale, 1e-6)
            torch.library.opcheck(ops._qk_norm_rope_pair_bwd.default, args)


def check_adamw(device):
    sizes = ((5,), (3, 4))
    for split in (True, False):
        masters = [torch.randn(s, device=device) for s in sizes]
        halves = [ops.split_master(m) for m in masters]
        weights = [h[0] if split else m for h, m in zip(halves, masters)]
        lows = [h[1] for h in halves] if split else []
        grads, avgs, squares = ([torch.rand(s, device=device) for s in sizes] for _ in range(3))
        args = (weights, lows, grads, avgs, squares, torch.rand(1, device=device), 1e-3, 0.9, 0.95, 1e-8, 0.1, 2)
        torch.library.opcheck(ops.adamw_split_list_.default, args)


def check_bits(device):
    master = torch.randn(3, 4, device=device)
    torch.library.opcheck(ops.split_master.default, (master,))
    torch.library.opcheck(ops.join_master.default, ops.split_master(master))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        torch.library.opcheck(ops.round_once.default, (master.double(), dtype))


def main():
    torch.ops.load_library(sys.argv[1])
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for dtype in (torch.float64, torch.bfloat16):
            check_pair(device, dtype)
        check_adamw(device)
        check_bits(device)
    print("opcheck: passed")


main()
