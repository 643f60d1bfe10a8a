"""Models with adapters of peft: refused in one line while the adapters are in, restored once they are merged."""

import copy

import pytest
import torch
from test_hf import trainer
from tiny_models import make

import qk_restore
from qk_restore.hf import RecallCallback

peft = pytest.importorskip("peft")

KINDS = {
    "lora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj"]),
    "dora": lambda: peft.LoraConfig(r=4, target_modules=["q_proj", "k_proj"], use_dora=True),
    "ia3": lambda: peft.IA3Config(target_modules=["q_proj", "k_proj"], feedforward_modules=[]),
    "whole copies": lambda: peft.LoraConfig(r=4, target_modules=["up_proj"], modules_to_save=["q_proj", "k_proj"]),
}


def adapted(model, kind="lora"):
    """The model with adapters that add something: LoRA's B starts at zero."""
    torch.manual_seed(5)
    inside = peft.get_peft_model(model, KINDS[kind]())
    with torch.no_grad():
        for weight in inside.parameters():
            if weight.requires_grad:
                weight += torch.randn_like(weight) * 0.05
    return inside


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_snapshot_under_adapters_is_refused(kind):
    model = adapted(make("llama"), kind)
    with pytest.raises(ValueError, match="self_attn.q_proj: must be one plain linear layer, got the parameter .*merge_and_unload") as error:
        qk_restore.Snapshot(model)
    one_line(error)


@pytest.mark.parametrize("kind", KINDS)
def test_a_restore_under_adapters_is_refused_and_writes_nothing(kind):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    inside = adapted(model, kind)
    before = copy.deepcopy(inside.state_dict())
    for given in (None, inside):
        with pytest.raises(ValueError, match="must have the parameter .*q_proj.weight, got none of that name; adapters must be merged") as error:
            snapshot.restore("procrustes", model=given)
        one_line(error)
    after = inside.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("method", ["plain", "procrustes"])
def test_merged_adapters_are_training_like_any_other(method):
    """The same bytes as for a model that was trained to the merged weights without peft."""
    model = make("llama")
    base = copy.deepcopy(model)
    snapshot = qk_restore.Snapshot(model)
    merged = adapted(model).merge_and_unload()
    tuned = copy.deepcopy(base)
    tuned.load_state_dict(merged.state_dict())
    assert not torch.equal(merged.model.layers[0].self_attn.q_proj.weight, base.model.layers[0].self_attn.q_proj.weight)
    want = qk_restore.Snapshot(base)
    want.restore(method, model=tuned)
    report = snapshot.restore(method)
    assert all(layer["residual_before"] > 0 for layer in report["layers"])
    assert all(torch.equal(a, b) for a, b in zip(merged.parameters(), tuned.parameters()))


def test_adapters_elsewhere_leave_q_and_k_as_they_were():
    model = peft.get_peft_model(make("llama"), peft.LoraConfig(r=4, target_modules=["up_proj", "down_proj"]))
    snapshot = qk_restore.Snapshot(model)
    report = snapshot.restore("procrustes")
    assert len(report["layers"]) == 3 and all(layer["residual_before"] == 0 for layer in report["layers"])


def test_the_callback_says_so_before_the_first_step(tmp_path):
    run = trainer(tmp_path, RecallCallback(), adapted(make("llama")))
    with pytest.raises(ValueError, match="must be one plain linear layer, got the parameter .*merge_and_unload"):
        run.train()
    assert run.state.global_step == 0
