"""What a Hugging Face model's token mixers are called and which of them are softmax attention: config.json decides, never a name."""

import json
from typing import Any, Optional

import torch

# Values of layer_types, mixer_types and the like. "sliding" and "chunked" attention is softmax attention over fewer keys.
_SOFTMAX = {"full_attention", "sliding_attention", "chunked_attention", "attention", "attn", "softmax", "swa", "global_attention"}
_LINEAR = {"linear_attention", "lightning", "lightning-attn", "lightning_attn", "gdn", "gated_deltanet", "mamba", "mamba2", "jet", "conv", "rwkv7"}
_TYPE_KEYS = ("layer_types", "mixer_types", "layers_block_type", "attn_type_list")
_PARTS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "o_proj": "o", "q_norm": "q", "k_norm": "k"}


def _text_config(model: torch.nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError("model: must have a config (a transformers.PreTrainedModel), got " + type(model).__name__)
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _is_softmax(config: Any, layer: int) -> bool:
    for key in _TYPE_KEYS:
        types = getattr(config, key, None)
        if not isinstance(types, (list, tuple)) or layer >= len(types):
            continue
        word = types[layer]
        if key == "attn_type_list" and word in (0, 1):  # MiniMax: 1 is softmax
            return word == 1
        if word in _SOFTMAX:
            return True
        if word in _LINEAR:
            return False
        raise ValueError(f"config.{key}[{layer}]: must be a kind of layer that is known, got {word!r}; say softmax_layers=[...]")
    return True  # no list of types: every layer is of one kind


def _attention_modules(model: torch.nn.Module) -> dict[int, tuple[str, torch.nn.Module]]:
    """By layer number: the module that holds q_proj and k_proj, below ...layers.<number>."""
    found: dict[int, tuple[str, torch.nn.Module]] = {}
    for name, module in model.named_modules():
        if not (isinstance(getattr(module, "q_proj", None), torch.nn.Module) and isinstance(getattr(module, "k_proj", None), torch.nn.Module)):
            continue
        path = name.split(".")
        numbers = [i for i, part in enumerate(path) if part.isdigit() and i > 0 and path[i - 1] in ("layers", "h", "blocks")]
        if not numbers:
            continue
        layer = int(path[numbers[-1]])
        if layer in found:
            raise ValueError(f"model: layer {layer} must have one module with q_proj and k_proj, got {found[layer][0]} and {name}")
        found[layer] = (name, module)
    return found


def _tensors_of(name: str, module: torch.nn.Module) -> list[dict[str, str]]:
    tensors = []
    for child, part in _PARTS.items():
        inner = getattr(module, child, None)
        for leaf, _ in inner.named_parameters() if isinstance(inner, torch.nn.Module) else ():
            if leaf not in ("weight", "bias"):
                raise ValueError(f"{name}.{child}: must be one plain linear layer, got the parameter {leaf}; take the snapshot before "
                                 "adapters are put in and restore after they are merged (peft: merge_and_unload), and dequantize")
            role = "bias" if leaf == "bias" else "gain" if child.endswith("norm") else "weight"
            tensors.append({"part": part, "role": role, "name": f"{name}.{child}.{leaf}"})
        if child in ("q_proj", "k_proj") and not any(tensor["name"] == f"{name}.{child}.weight" for tensor in tensors):
            raise ValueError(f"model: {name}.{child} must have a parameter weight of its own, got none (FSDP keeps it in a flat one); "
                             "gather it first")
    return tensors


def _by_modules(model: torch.nn.Module, softmax_layers: Optional[list[int]]) -> list[dict]:
    config = _text_config(model)
    layers = []
    for layer, (name, module) in sorted(_attention_modules(model).items()):
        heads = int(config.num_attention_heads)
        head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        softmax = layer in softmax_layers if softmax_layers is not None else _is_softmax(config, layer)
        layers.append({
            "layer": layer, "softmax": softmax, "heads": heads, "kv_heads": int(getattr(config, "num_key_value_heads", None) or heads),
            "head_dim": head_dim, "rope": True, "qk_activation": False, "tensors": _tensors_of(name, module),
        })
    if not layers:
        raise ValueError("model: must have layers with separate q_proj and k_proj, got none in " + type(model).__name__)
    return layers


def describe_layers(model: torch.nn.Module, softmax_layers: Optional[list[int]] = None) -> tuple[list[dict], str]:
    """The token mixers of a model, and "" if the trainer itself knows the family by its config.json (HypeNet, Qwen3, Qwen2, Llama), else
    why not. Of any other family every layer with q_proj and k_proj is listed, softmax or linear by config.layer_types (mixer_types, ...);
    softmax_layers names them where the config does not. ValueError if a layer's kind or weights cannot be told.
    """
    if softmax_layers is None:
        try:
            known = json.loads(torch.ops.qk_restore._mixer_layers(model.config.to_json_string()))
            names = dict(model.named_parameters())
            missing = next((t["name"] for layer in known for t in layer["tensors"] if t["name"] not in names), None)
            if missing is None:
                return known, ""
            unknown = f"its {missing} is not in the model"
        except (AttributeError, ValueError) as error:
            unknown = str(error)
    else:
        unknown = "softmax_layers was given"
    return _by_modules(model, softmax_layers), unknown
