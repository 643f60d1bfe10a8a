"""`qk-restore --method plain` beside `cp -r` and `sync`, in turns, on one machine.

    python tests/bench/restore_against_copy.py build/bin/qk-restore SCRATCH_FOLDER [--layers 24] [--runs 7]

Makes two Qwen3-shaped folders of random bf16 weights in the scratch folder (2.4 GB each with 24 layers of 2,048), restores W_Q and W_K
of every layer, and prints each pair of times and the median ratio. Both sides end with the data on the disk. Two cores are enough:
`taskset -c 0,1` in front of it measures what a laptop would.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import time

import numpy as np

HIDDEN, INNER, VOCABULARY, HEADS, KV_HEADS, HEAD_DIM = 2048, 6144, 32000, 16, 4, 128


def shapes(layers):
    yield "model.embed_tokens.weight", [VOCABULARY, HIDDEN]
    yield "model.norm.weight", [HIDDEN]
    for layer in range(layers):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [HIDDEN]
        yield at + "post_attention_layernorm.weight", [HIDDEN]
        yield at + "self_attn.q_norm.weight", [HEAD_DIM]
        yield at + "self_attn.k_norm.weight", [HEAD_DIM]
        yield at + "self_attn.q_proj.weight", [HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.k_proj.weight", [KV_HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.v_proj.weight", [KV_HEADS * HEAD_DIM, HIDDEN]
        yield at + "self_attn.o_proj.weight", [HIDDEN, HEADS * HEAD_DIM]
        yield at + "mlp.gate_proj.weight", [INNER, HIDDEN]
        yield at + "mlp.up_proj.weight", [INNER, HIDDEN]
        yield at + "mlp.down_proj.weight", [HIDDEN, INNER]


def bf16_noise(generator, count):
    """Random bits of finite bf16 numbers: any sign and mantissa, exponents from 2^-8 to 2^-1."""
    bits = generator.integers(0, 1 << 16, count, dtype=np.uint16)
    return ((bits & 0x83FF) | 0x3B00).astype(np.uint16).tobytes()


def make_folder(folder, layers, seed):
    folder.mkdir(parents=True)
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": HIDDEN, "intermediate_size": INNER,
              "num_hidden_layers": layers, "vocab_size": VOCABULARY, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
              "head_dim": HEAD_DIM, "tie_word_embeddings": True, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "attention_bias": False,
              "hidden_act": "silu", "max_position_embeddings": 4096, "layer_types": ["full_attention"] * layers}
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in shapes(layers):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(seed)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in shapes(layers):
            file.write(bf16_noise(generator, int(np.prod(shape))))
    return end


def seconds_of(out, command):
    """What the command takes, `out` not there before it and on the disk after it."""
    shutil.rmtree(out, ignore_errors=True)
    os.sync()
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["sync", "-f", out], check=True)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    base, tuned, out = (options.scratch / name for name in ("base", "tuned", "out"))
    size = [make_folder(folder, options.layers, seed) for seed, folder in enumerate((base, tuned))][0]
    restore = [options.program, "--base", base, "--tuned", tuned, "--out", out, "--method", "plain", "--device", "cpu"]
    ratios = []
    for _ in range(options.runs):
        copy, ours = seconds_of(out, ["cp", "-r", tuned, out]), seconds_of(out, restore)
        ratios.append(ours / copy)
        print(f"{size / 1e9:.2f} GB  cp -r and sync {copy:.2f} s  qk-restore plain {ours:.2f} s  ratio {ratios[-1]:.2f}", flush=True)
    print(f"median ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
