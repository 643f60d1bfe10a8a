"""W_Q and W_K of a model as they were, and the ways to put them back."""

import json
import os
import sys
from typing import Any, Iterable, Optional, Union

import torch

from .layers import describe_layers

Layers = Union[str, list[int]]


def _options(**values: Any) -> str:
    return json.dumps({key: value for key, value in values.items() if value is not None})


_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_INSTEAD = "; restore the saved folders with the program qk-restore instead"


def _refuse_fsdp(model: torch.nn.Module) -> None:
    fsdp = sys.modules.get("torch.distributed.fsdp")  # never imported here: whoever shards has done that
    kinds = tuple(getattr(fsdp, kind) for kind in ("FullyShardedDataParallel", "FSDPModule") if hasattr(fsdp, kind))
    sharded = next((module for module in model.modules() if isinstance(module, kinds)), None)
    if sharded is not None:
        raise ValueError(f"model: must be whole on each rank, got {type(sharded).__name__} (FSDP){_INSTEAD}")


def _not_whole(name: str, weight: torch.Tensor) -> str:
    """What stands in the weight's place, "" if it is the weight itself."""
    if hasattr(weight, "device_mesh"):
        return "a DTensor (FSDP, tensor parallel)"
    if hasattr(weight, "ds_id"):  # also while it is gathered: what is written then may be lost
        return "a parameter of DeepSpeed's ZeRO-3"
    is_shard = weight.numel() == 0 or (name.endswith("proj.weight") and weight.dim() == 1)
    return f"a shard or a placeholder (shape {tuple(weight.shape)})" if weight.is_meta or is_shard else ""


def _whole_weights(model: torch.nn.Module, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The model's parameters of these names as they are now. ValueError in one line for one that is absent or not whole."""
    _refuse_fsdp(model)
    parameters = dict(model.named_parameters())
    weights = {}
    for name in names:
        weight = parameters.get(name)
        if weight is None:
            raise ValueError(f"model: must have the parameter {name}, got none of that name; adapters must be merged "
                             "(peft: merge_and_unload), and shards gathered")
        got = _not_whole(name, weight)
        if got:
            raise ValueError(f"model: {name} must be whole on each rank, got {got}{_INSTEAD}")
        if weight.dtype not in _DTYPES:  # its scales lie elsewhere and would not go back with it
            raise ValueError(f"model: {name} must be float32, bfloat16, float16 or float64, got {weight.dtype}; dequantize first")
        weights[name] = weight
    return weights


class Snapshot:
    """The attention weights of `model` now, on the CPU, in their dtype: q, k and v of its softmax layers unless more is asked for.

    model: a transformers model on any device, whole (not sharded by FSDP, ZeRO-3 or tensor parallelism), without adapters.
    LoRA on q_proj or k_proj: take the snapshot before the adapters are put in (peft: get_peft_model) and restore after merge_and_unload(),
    when the weights are what training made of them. In between, restore() refuses: a base weight under an adapter has not moved, and the
    adapter would go on adding what has. If `plain` is all that is wanted, leave both out of target_modules, and nothing has to go back.
    layers, parts, method: what a later restore will want beyond that, as in restore(); parts="mixer" keeps all of each mixer.
    softmax_layers: 0-based numbers, only where the model's config does not tell the kinds of its layers.
    ValueError if the model's layers cannot be told, or lack what is asked for.
    """

    def __init__(self, model: torch.nn.Module, *, method: Optional[str] = None, layers: Layers = "softmax", parts: str = "qk",
                 softmax_layers: Optional[list[int]] = None):
        _refuse_fsdp(model)  # before its layers are looked for, which it hides
        self.model = model
        self.layers, self._unknown = describe_layers(model, softmax_layers)
        weights = _whole_weights(model, [tensor["name"] for layer in self.layers for tensor in layer["tensors"]])
        self._keep = _options(method=method or ("qkv" if parts == "qk" else "plain"), layers=layers, parts=parts)
        names, tensors = list(weights), [w.detach() for w in weights.values()]
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
        weights = _whole_weights(model, state["tensors"])
        for name, kept in state["tensors"].items():
            live = weights[name]
            if live.shape != kept.shape or live.dtype != kept.dtype:
                raise ValueError(f"{path}: {name} must be {tuple(live.shape)} {live.dtype} as in the model, got {tuple(kept.shape)} {kept.dtype}")
        snapshot._snapshot = torch.classes.qk_restore.Snapshot(list(state["tensors"]), list(state["tensors"].values()), state["layers"],
                                                               snapshot._keep)
        return snapshot

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
        weights = _whole_weights(self.model if model is None else model, self._snapshot.names())
        report = self._snapshot.restore(list(weights), [weight.detach() for weight in weights.values()], options)
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
