"""Snapshot on models of transformers, against the qk-restore program on the same folders: the same bytes."""

import copy
import subprocess

import pytest
import torch
import transformers
from conftest import BUILD
from safetensors.torch import load_file
from tiny_models import SHAPE, fine_tune, make

import qk_restore

PROGRAM = BUILD / "bin" / "qk-restore"
METHODS = ["plain", "procrustes", "lerp:0.3", "q", "k", "qkv", "qk-pro", "qk-pro-head", "qk-pro-bilinear"]


def program_result(tmp_path, base, tuned, method, *flags):
    base.save_pretrained(tmp_path / "base")
    tuned.save_pretrained(tmp_path / "tuned")
    command = [PROGRAM, "--base", tmp_path / "base", "--tuned", tmp_path / "tuned", "--out", tmp_path / "out", "--method", method, "--device", "cpu"]
    subprocess.run([*map(str, command), *flags], check=True, capture_output=True)
    return load_file(tmp_path / "out" / "model.safetensors")


def assert_same_bytes(model, tensors):
    state = {name: weight for name, weight in model.state_dict().items() if name in tensors}
    assert len(state) == len(tensors)
    for name, weight in state.items():
        assert weight.dtype == tensors[name].dtype
        assert torch.equal(weight.contiguous().view(torch.uint8), tensors[name].contiguous().view(torch.uint8)), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family,dtype", [("qwen3", torch.bfloat16), ("llama", torch.float32)])
def test_the_same_bytes_as_the_program(tmp_path, family, dtype, method):
    base = make(family, dtype)
    tuned = copy.deepcopy(base)
    snapshot = qk_restore.Snapshot(tuned)
    fine_tune(tuned)
    want = program_result(tmp_path, base, tuned, method)
    report = snapshot.restore(method)
    assert_same_bytes(tuned, want)
    assert [layer["layer"] for layer in report["layers"]] == [0, 1, 2] and report["method"] == method


@pytest.mark.parametrize("method", ["procrustes-head", "qk-pro-head"])
def test_biases_and_the_head_side_as_the_program(tmp_path, method):
    base = make("qwen2")
    tuned = copy.deepcopy(base)
    snapshot = qk_restore.Snapshot(tuned, method=method)
    fine_tune(tuned)
    want = program_result(tmp_path, base, tuned, method)
    snapshot.restore(method)
    assert_same_bytes(tuned, want)


def test_options_as_the_program_s_flags(tmp_path):
    base = make("qwen3")
    tuned = copy.deepcopy(base)
    snapshot = qk_restore.Snapshot(tuned, parts="mixer", layers="all")
    fine_tune(tuned)
    want = program_result(tmp_path, base, tuned, "procrustes", "--anchor", "0.5", "--layers", "0,2", "--parts", "v", "--qk-norm")
    report = snapshot.restore("procrustes", anchor=0.5, layers=[0, 2], parts="v", qk_norm=True)
    assert_same_bytes(tuned, want)
    assert report["anchor"] == 0.5 and [layer["layer"] for layer in report["layers"]] == [0, 2]


def test_only_what_is_asked_for_changes(device):
    model = make("qwen3").to(device)
    before = {n: w.clone() for n, w in model.state_dict().items()}
    snapshot = qk_restore.Snapshot(model)
    fine_tune(model)
    tuned = {n: w.clone() for n, w in model.state_dict().items()}
    places = {n: w.data_ptr() for n, w in model.named_parameters()}
    snapshot.restore("plain")
    for name, weight in model.state_dict().items():
        back = "q_proj" in name or "k_proj" in name
        assert torch.equal(weight, (before if back else tuned)[name]), name
    assert places == {n: w.data_ptr() for n, w in model.named_parameters()}


def test_procrustes_on_every_device_alike(device):
    here, there = make("llama"), make("llama").to(device)
    for model in (here, there):
        snapshot = qk_restore.Snapshot(model)
        fine_tune(model)
        report = snapshot.restore("procrustes")
        assert all(layer["certificate"]["orthogonality"] < 1e-12 for layer in report["layers"])
    for a, b in zip(here.parameters(), there.parameters()):
        torch.testing.assert_close(a, b.cpu(), rtol=0, atol=1e-6)


def test_a_hybrid_of_another_family_by_its_layer_types():
    model = make("minimax")
    kinds = {layer["layer"]: layer["softmax"] for layer in qk_restore.describe_layers(model)[0]}
    assert kinds == {1: True}
    snapshot = qk_restore.Snapshot(model)
    assert {name.split(".")[2] for name in snapshot.tensors()} == {"1"}
    fine_tune(model)
    want = snapshot.tensors()["model.layers.1.self_attn.q_proj.weight"].clone()
    snapshot.restore("plain")
    assert torch.equal(model.model.layers[1].self_attn.q_proj.weight, want)


def test_layer_types_decide_and_not_names():
    model = make("mistral")
    model.config.layer_types = ["linear_attention", "sliding_attention", "linear_attention"]
    assert {name.split(".")[2] for name in qk_restore.Snapshot(model).tensors()} == {"1"}
    model.config.layer_types = ["linear_attention", "sliding_attention", "wavelet"]
    with pytest.raises(ValueError, match=r"config.layer_types\[2\]: must be a kind of layer that is known, got 'wavelet'"):
        qk_restore.Snapshot(model)
    assert {name.split(".")[2] for name in qk_restore.Snapshot(model, softmax_layers=[0]).tensors()} == {"0"}


def test_a_base_model_without_a_head():
    model = make("llama").model
    snapshot = qk_restore.Snapshot(model)
    want = snapshot.tensors()["layers.0.self_attn.q_proj.weight"].clone()
    fine_tune(model)
    snapshot.restore("lerp:0")
    assert torch.equal(model.layers[0].self_attn.q_proj.weight, want)


def test_save_and_load(tmp_path):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    snapshot.save(tmp_path / "s.pt")
    fine_tune(model)
    other = copy.deepcopy(model)
    again = qk_restore.Snapshot.load(tmp_path / "s.pt", other)
    assert again.digest() == snapshot.digest()
    snapshot.restore("procrustes"), again.restore("procrustes")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    with pytest.raises(ValueError, match="must be .* as in the model"):
        qk_restore.Snapshot.load(tmp_path / "s.pt", make("llama", hidden_size=128))


REFUSED = [
    (dict(method="nonsense"), ValueError, "^method: must be one of none, plain, procrustes, .*, got the string 'nonsense'"),
    (dict(method="procrustes", anchor=-1.0), ValueError, "^anchor: must be >= 0, got '-1.0'"),
    (dict(method="plain", layers=[7]), ValueError, "^layers: must name layers of the snapshot, got 7"),
    (dict(method="plain", layers="linear"), ValueError, "^layers: the snapshot must have linear layers, got none"),
    (dict(method="plain", parts="o"), ValueError, "got no o weight in layer 0"),
    (dict(method="auto"), ValueError, "^method: must be one method, got auto"),
    (dict(method="qk-pro", parts="v"), ValueError, "^parts: must be qk where the method is qk-pro"),
]


@pytest.mark.parametrize("options,kind,text", REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_refusals_name_the_option_and_write_nothing(options, kind, text):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    fine_tune(model)
    tuned = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=text):
        snapshot.restore(**options)
    assert all(torch.equal(w, tuned[n]) for n, w in model.state_dict().items())


def test_a_nan_is_a_failed_run_and_nothing_is_written():
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    fine_tune(model)
    with torch.no_grad():
        model.model.layers[2].self_attn.k_proj.weight[0, 0] = float("nan")
    tuned = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="model.layers.2.self_attn.k_proj.weight.*NaN") as error:
        snapshot.restore("procrustes")
    assert not isinstance(error.value, ValueError)
    assert torch.equal(model.model.layers[0].self_attn.q_proj.weight, tuned["model.layers.0.self_attn.q_proj.weight"])


def test_procrustes_head_is_refused_where_the_architecture_is_not_known():
    with pytest.raises(ValueError, match="procrustes-head needs to know how queries and keys turn"):
        qk_restore.Snapshot(make("mistral")).restore("procrustes-head")
    with pytest.raises(ValueError, match="procrustes-head must not move the attention logits"):
        model = make("qwen3")  # gains that differ: only signs are exact
        qk_restore.Snapshot(fine_tune(model, 3), method="procrustes-head").restore("procrustes-head")


def test_models_that_cannot_be_told_are_refused():
    with pytest.raises(ValueError, match="must have layers with separate q_proj and k_proj, got none in GPT2LMHeadModel"):
        qk_restore.Snapshot(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32)))
    with pytest.raises(ValueError, match="must have a config"):
        qk_restore.Snapshot(torch.nn.Linear(2, 2))
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    with pytest.raises(ValueError, match="must be whole on each rank, got a shard or a placeholder"):
        qk_restore.Snapshot(model)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantized_weights_are_refused(dtype):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    for layer in model.model.layers:
        for linear in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            linear.weight = torch.nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    text = f"^model: model.layers.0.self_attn.q_proj.weight must be float32, bfloat16, float16 or float64, got {dtype}; dequantize first$"
    for action in (lambda: qk_restore.Snapshot(model), lambda: snapshot.restore("plain")):
        with pytest.raises(ValueError, match=text):
            action()


class PutBack(torch.nn.Module):
    """The restore as a TorchScript module that carries its snapshot: what a program without Python loads."""

    def __init__(self, snapshot):
        super().__init__()
        self.snapshot = snapshot

    def forward(self, names: list[str], tensors: list[torch.Tensor]) -> str:
        return self.snapshot.restore(names, tensors, '{"method": "procrustes"}')


def test_a_script_carries_its_snapshot(tmp_path):
    model = make("llama")
    snapshot = qk_restore.Snapshot(model)
    torch.jit.script(PutBack(snapshot._snapshot)).save(str(tmp_path / "put_back.pt"))
    fine_tune(model)
    other = copy.deepcopy(model)
    snapshot.restore("procrustes")
    weights = {name: weight.detach() for name, weight in other.named_parameters() if "q_proj" in name or "k_proj" in name or "v_proj" in name}
    report = torch.jit.load(str(tmp_path / "put_back.pt"))(list(weights), list(weights.values()))
    assert '"method":"procrustes"' in report
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
