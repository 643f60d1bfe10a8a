"""Tiny models of transformers' own classes, and the tokenizer of examples/tiny."""

import torch
import transformers
from conftest import ROOT

TINY = ROOT / "examples" / "tiny" / "model"
SHAPE = dict(vocab_size=2048, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
             head_dim=16, max_position_embeddings=4096, bos_token_id=None, pad_token_id=None)


def tokenizer():
    return transformers.AutoTokenizer.from_pretrained(TINY)


def make(family, dtype=torch.float32, **changes):
    torch.manual_seed(1)
    shape = {**SHAPE, **changes}
    if family == "llama":
        config, kind = transformers.LlamaConfig(**shape), transformers.LlamaForCausalLM
    elif family == "qwen3":
        config, kind = transformers.Qwen3Config(**shape, tie_word_embeddings=True), transformers.Qwen3ForCausalLM
    elif family == "qwen2":
        del shape["head_dim"]
        config, kind = transformers.Qwen2Config(**shape), transformers.Qwen2ForCausalLM
    elif family == "mistral":
        config, kind = transformers.MistralConfig(**shape, sliding_window=32), transformers.MistralForCausalLM
    elif family == "minimax":  # a hybrid: lightning attention in layers 0 and 2
        config = transformers.MiniMaxConfig(**shape, num_local_experts=2, layer_types=["linear_attention", "full_attention", "linear_attention"])
        kind = transformers.MiniMaxForCausalLM
    else:
        raise AssertionError(family)
    return kind(config).to(dtype).eval()


def fine_tune(model, scale=0.1):
    """Moves every weight, reproducibly; biases and gains too."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            step = torch.randn(weight.shape, generator=generator) * scale * 0.02
            weight += step.to(weight.device, weight.dtype)
    return model
