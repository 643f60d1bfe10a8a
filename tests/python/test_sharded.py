"""Sharded models are refused in one line, on every rank alike, and left as they are: FSDP of both kinds on two ranks, tensor parallelism by
its parameters, ZeRO-3 by DeepSpeed itself where it is installed, and else by what it documents of its parameters."""

import copy
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from conftest import ROOT
from test_hf import trainer
from tiny_models import make

import qk_restore
from qk_restore.hf import RecallCallback

BY_MODULE = r"model: must be whole on each rank, got \w+ \(FSDP\); restore the saved folders with the program qk-restore instead"
BY_WEIGHT = (r"model: model.layers.0.self_attn.q_proj.weight must be whole on each rank, got a shard or a placeholder \(shape \(\d+,\)\); "
             "restore the saved folders with the program qk-restore instead")
NO_WEIGHT = "model: (model.layers.0.self_attn.q_proj must have a parameter weight of its own|must have the parameter model.layers.0.*), got none.*"
# flat: FSDP keeps one flat parameter a module, else views of it by their own names. What the caller has in hand is what FSDP gave back, or,
# "inside", what was wrapped: then nothing but its parameters can tell.
FSDP = {
    "fully_shard": {BY_MODULE}, "views": {BY_MODULE, BY_WEIGHT}, "views, layers": {BY_MODULE}, "flat": {BY_MODULE, NO_WEIGHT},
    "flat, layers": {BY_MODULE}, "inside, views": {BY_WEIGHT}, "inside, flat": {NO_WEIGHT}, "inside, flat, layers": {BY_MODULE},
}


@pytest.fixture(scope="module")
def told():
    """What Snapshot(), restore() and restore(model=) said, by rank and kind."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", ROOT / "tests/python/sharded_rank.py", *FSDP]
    path = os.pathsep.join([str(ROOT / "ops/python"), str(ROOT / "tests/python")])
    done = subprocess.run(list(map(str, command)), env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", FSDP)
def test_fsdp_on_two_ranks(told, kind):
    said = [line for rank in told for line in rank[kind]]
    assert len(said) == 6
    used = {pattern for line in said for pattern in FSDP[kind] if re.fullmatch(pattern, line)}
    assert used == FSDP[kind] and all(any(re.fullmatch(pattern, line) for pattern in used) for line in said), said


def one_rank_mesh():
    if not torch.distributed.is_initialized():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    return torch.distributed.device_mesh.init_device_mesh("cpu", (1,))


def test_tensor_parallel_parameters():
    from torch.distributed.tensor import DTensor, Shard

    mesh, model = one_rank_mesh(), make("llama")
    snapshot = qk_restore.Snapshot(model)
    attention = model.model.layers[1].self_attn
    attention.k_proj.weight = torch.nn.Parameter(DTensor.from_local(attention.k_proj.weight.detach(), mesh, [Shard(0)]))
    before = attention.k_proj.weight.to_local().clone()
    text = r"^model: model.layers.1.self_attn.k_proj.weight must be whole on each rank, got a DTensor \(FSDP, tensor parallel\); restore the"
    for action in (lambda: qk_restore.Snapshot(model), lambda: snapshot.restore("plain")):
        with pytest.raises(ValueError, match=text):
            action()
    assert torch.equal(attention.k_proj.weight.to_local(), before)
    torch.distributed.destroy_process_group()


def assert_zero_3_is_refused(model, snapshot, whole):
    """`whole`: it is gathered at this moment, which a small weight always is between steps; what is written then is lost or half written."""
    weight = model.model.layers[0].self_attn.q_proj.weight
    assert (weight.numel() > 0) == whole
    before = weight.detach().clone()
    for action in (lambda: qk_restore.Snapshot(model), lambda: snapshot.restore("plain", model=model)):
        with pytest.raises(ValueError, match="must be whole on each rank, got a parameter of DeepSpeed's ZeRO-3; restore the saved") as error:
            action()
        assert "\n" not in str(error.value)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("whole", [False, True])
def test_zero_3_by_what_it_documents_of_its_parameters(whole):
    """deepspeed.runtime.zero.partition_parameters gives each an id, ds_id, and its data is empty while it is not gathered."""
    model, snapshot = make("llama"), qk_restore.Snapshot(make("llama"))
    for number, weight in enumerate(model.parameters()):
        weight.ds_id, weight.ds_shape, weight.ds_tensor = number, weight.shape, weight.data.flatten()
        if not whole:
            weight.data = torch.empty(0)
    assert_zero_3_is_refused(model, snapshot, whole)


def test_zero_3_of_deepspeed(monkeypatch):
    for name, value in dict(DS_ACCELERATOR="cpu", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0").items():
        monkeypatch.setenv(name, value)
    deepspeed = pytest.importorskip("deepspeed")
    one_rank_mesh()
    deepspeed.init_distributed("gloo")
    snapshot = qk_restore.Snapshot(make("llama"))
    with deepspeed.zero.Init(config_dict_or_path={"train_batch_size": 1, "zero_optimization": {"stage": 3}}):
        model = make("llama")
    assert_zero_3_is_refused(model, snapshot, False)
    with deepspeed.zero.GatheredParameters(list(model.parameters())):
        assert_zero_3_is_refused(model, snapshot, True)
    torch.distributed.destroy_process_group()


def test_the_callback_refuses_what_the_trainer_would_shard(tmp_path):
    run = trainer(tmp_path, RecallCallback())
    before = copy.deepcopy(run.model.state_dict())
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    run.args.fsdp = ["full_shard"]  # as an option of TrainingArguments leaves it
    with pytest.raises(ValueError, match="RecallCallback: the weights must be whole on each rank, got FSDP or ZeRO-3; restore the saved folders"):
        RecallCallback().on_train_begin(run.args, state, control, model=run.model)
    assert all(torch.equal(weight, before[name]) for name, weight in run.model.state_dict().items())
