"""A hook as a saved module: written and scripted in Python, run by sft-train without it.

    python examples/hooks/make_pt.py OUT.pt

Its methods are those of a .ts; what it keeps are its own buffers and attributes.
"""

import sys
from typing import Dict, List, Tuple

import torch


class Spikes(torch.nn.Module):
    """Counts gradient norms above three times their running mean, and asks for a checkpoint at each."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.seen: int = 0
        self.spikes: int = 0

    @torch.jit.export
    def on_step(self, metrics: Dict[str, float]) -> Tuple[Dict[str, float], List[str]]:
        norm = metrics["grad_norm"]
        mean = float(self.mean)
        requests: List[str] = []
        if self.seen >= 2 and norm > 3.0 * mean:
            self.spikes += 1
            requests.append("save")
        self.seen += 1
        self.mean.add_((norm - mean) / float(min(self.seen, 20)))
        return {"mean_norm": float(self.mean), "spikes": float(self.spikes)}, requests


if __name__ == "__main__":
    torch.jit.save(torch.jit.script(Spikes()), sys.argv[1])
