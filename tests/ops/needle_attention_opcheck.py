#!/usr/bin/env python3
"""torch.library.opcheck on needle_attention:  needle_attention_opcheck.py LIBRARY

On the CPU, and on a GPU if there is one, where a captured CUDA graph must follow the positions and ranges as they change.
"""
import sys

import torch

torch.ops.load_library(sys.argv[1])
op = torch.ops.qk_restore.needle_attention


def inputs(device, dtype, dim):
    torch.manual_seed(0)
    q = torch.randn(5, 4, dim, device=device, dtype=dtype)
    k = torch.randn(300, 2, dim, device=device, dtype=dtype)
    positions = torch.tensor([299, 10, 200, 0, 150], device=device)
    ranges = torch.tensor([[3, 40], [5, 90], [190, 200], [0, 1], [7, 7]], device=device)
    return q, k, positions, ranges, 0.3


def check_graph(dtype, dim):
    args = inputs("cuda", dtype, dim)
    op(*args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = op(*args)
    args[2].copy_(torch.tensor([100, 299, 0, 20, 7]))
    args[3].sub_(2)
    graph.replay()
    assert torch.equal(captured, op(*args)), "the graph's result differs"


def main():
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        for dtype in (torch.float32, torch.bfloat16):
            for dim in (24, 64):
                torch.library.opcheck(op.default, inputs(device, dtype, dim))
                if device == "cuda":
                    check_graph(dtype, dim)
    print("opcheck: passed")


main()
