"""W_Q and W_K of a model as they were, and the ways to put them back."""

import json
import os
from typing import Any, Optional, Union

import torch

from .layers import describe_layers

Layers = Union[str, list[int]]


def _options(**values: Any) -> str:
    return json.dumps({key: value for key, value in values.items() if value is not None})


class Snapshot:
    """The attention weights of `model` now, on the CPU, in their dtype: q, k and v of its softmax layers unless more is asked for.

    model: a transformers model on any device, whole (not sharded by FSDP or ZeRO-3), without adapters.
    layers, parts, method: what a later restore will want beyond that, as in restore(); parts="mixer" keeps all of each mixer.
    softmax_layers: 0-based numbers, only where the model's config does not tell the kinds of its layers.
    ValueError if the model's layers cannot be told, or lack what is asked for.
    """

    def __init__(self, model: torch.nn.Module, *, method: Optional[str] = None, layers: Layers = "softmax", parts: str = "qk",
                 softmax_layers: Optional[list[int]] = None):
        self.model = model
        self.layers, self._unknown = describe_layers(model, softmax_layers)
        self._weights = self._live_weights()
        self._keep = _options(method=method or ("qkv" if parts == "qk" else "plain"), layers=layers, parts=parts)
        names, tensors = list(self._weights), [w.detach() for w in self._weights.values()]
        self._snapshot = torch.classes.qk_restore.Snapshot(names, tensors, json.dumps(self.layers), self._keep)

    def save(self, path: Union[str, os.PathLike]) -> None:
        """Writes what is kept to a file that load() reads: the way over the end of a process. The file appears whole or not at all."""
        state = {"layers": self._snapshot.layers(), "unknown": self._unknown, "keep": self._keep, "tensors": self.tensors()}
        partial = f"{os.fspath(path)}.{os.getpid()}.partial"
        torch.save(state, partial)
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Union[str, os.PathLike], model: torch.nn.Module) -> "Snapshot":
        """The snapshot that save() wrote, for a model of the same shapes. ValueError naming the tensor that differs."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        snapshot = cls.__new__(cls)
        snapshot.model, snapshot.layers = model, json.loads(state["layers"])
        snapshot._unknown, snapshot._keep = state["unknown"], state["keep"]
        snapshot._weights = snapshot._live_weights()
        for name, kept in state["tensors"].items():
            live = snapshot._weights[name]
            if live.shape != kept.shape or live.dtype != kept.dtype:
                raise ValueError(f"{path}: {name} must be {tuple(live.shape)} {live.dtype} as in the model, got {tuple(kept.shape)} {kept.dtype}")
        snapshot._snapshot = torch.classes.qk_restore.Snapshot(list(state["tensors"]), list(state["tensors"].values()), state["layers"],
                                                               snapshot._keep)
        return snapshot

    def _live_weights(self) -> dict[str, torch.Tensor]:
        parameters = dict(self.model.named_parameters())
        weights = {}
        for layer in self.layers:
            for tensor in layer["tensors"]:
                weight = parameters.get(tensor["name"])
                if weight is None:
                    raise ValueError(f"model: must have the parameter {tensor['name']}, got none of that name")
                if hasattr(weight, "device_mesh") or weight.numel() == 0 or weight.is_meta:
                    raise ValueError(f"model: {tensor['name']} must be whole on its device, got a shard or a placeholder (FSDP, ZeRO-3, meta)")
                weights[tensor["name"]] = weight
        return weights

    def restore(self, method: str = "procrustes", *, anchor: Optional[float] = None, ridge: Optional[float] = None, layers: Layers = "softmax",
                parts: str = "qk", biases: bool = True, qk_norm: bool = False, model: Optional[torch.nn.Module] = None) -> dict:
        """Puts the weights back in place and returns what restore.json holds (per layer: what training moved, the rotation, its certificate).

        method: plain (W_pre, byte for byte) | procrustes (W_pre R; anchor, default 0.01, large is plain) | lerp:A (W_pre + A (W_post - W_pre))
        | q, k, qkv (plain with these parts) | qk-pro, qk-pro-head, qk-pro-bilinear (W_K as it was, W_Q by a ridge) | procrustes-head (a
        rotation per KV head that leaves the logits as plain has them) | none (measures alone).
        layers: softmax, linear, all, or 0-based numbers; parts: qk, q, k, v, o, gates, norms or mixer; biases go back with their weights;
        qk_norm: the gains of q_norm and k_norm too. model: another model of the same shapes than the one the snapshot was taken of.
        ValueError, and nothing written, if the model's architecture or the snapshot refuses it; RuntimeError if a weight holds NaN or Inf.
        """
        options = _options(method=method, anchor=anchor, ridge=ridge, layers=layers, parts=parts, biases=biases, qk_norm=qk_norm)
        reason = self.refusal(method, anchor=anchor, ridge=ridge, layers=layers, parts=parts, biases=biases, qk_norm=qk_norm)
        if reason:
            raise ValueError(reason)
        weights = self._weights if model is None else dict(model.named_parameters())
        kept = [name for name in self._snapshot.names() if name in weights]
        report = self._snapshot.restore(kept, [weights[name].detach() for name in kept], options)
        return json.loads(report)

    def refusal(self, method: str, **options: Any) -> str:
        """Why restore(method, **options) would refuse, "" if it would not: to be asked before anything is trained."""
        if method == "procrustes-head" and self._unknown:
            return ("method: procrustes-head needs to know how queries and keys turn and are normed, which it does of HypeNet, Qwen3, Qwen2 and "
                    f"Llama, and not of this model: {self._unknown}")
        return self._snapshot.refusal(_options(method=method, **options))

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is kept, by name, on the CPU (shared, not copied: writing into one changes the snapshot)."""
        return dict(zip(self._snapshot.names(), self._snapshot.tensors()))

    def digest(self) -> str:
        """SHA-256 over names, dtypes, shapes and bytes of what is kept: 64 hex digits."""
        return self._snapshot.digest()
