"""One rank of two that shard a model with FSDP: sharded_rank.py KIND..., started by torch.distributed.run. Each rank must be refused alike, with
nothing written, whatever part of a weight it holds. Rank 0 prints what each rank was told, by kind."""

import json
import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from tiny_models import make
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import qk_restore


def shard(model, kind):
    """What holds the shards, and what the caller has in hand."""
    if kind == "fully_shard":
        for layer in model.model.layers:
            fully_shard(layer)
        return fully_shard(model), model
    by_layer = {"auto_wrap_policy": ModuleWrapPolicy([LlamaDecoderLayer])} if "layers" in kind else {}
    whole = FullyShardedDataParallel(model, use_orig_params="flat" not in kind, device_id=torch.device("cpu"), **by_layer)
    return whole, model if "inside" in kind else whole


def refusal(action):
    try:
        action()
    except ValueError as error:
        return str(error)
    raise AssertionError("must be refused")


def local(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def said_of(kind):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)  # while it is whole
    holder, model = shard(model, kind)
    before = [local(weight.detach()).clone() for weight in holder.parameters()]
    said = [refusal(lambda: qk_restore.Snapshot(model)), refusal(lambda: snapshot.restore("plain")),
            refusal(lambda: snapshot.restore("plain", model=model))]
    after = [local(weight.detach()) for weight in holder.parameters()]
    assert len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after)), "nothing may be written"
    return said


dist.init_process_group("gloo")
said = {kind: said_of(kind) for kind in sys.argv[1:]}
everyone = [None, None]
dist.all_gather_object(everyone, said)
if dist.get_rank() == 0:
    print(json.dumps(everyone), flush=True)
dist.barrier()
os._exit(0)  # Gloo's threads do not always end before the process does, which then aborts
