"""torch.ops.qk_restore as a Torch library: schemas, fake tensors, autograd, autocast, torch.compile, torch.export."""

import inspect

import pytest
import torch
from operator_samples import samples, tensor

import qk_restore

OPS = torch.ops.qk_restore


def registered():
    """Every operator that takes a tensor."""
    schemas = [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("qk_restore::")]
    return sorted({s.name.split("::")[1] for s in schemas if any("Tensor" in str(a.type) for a in s.arguments)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", registered())
def test_opcheck(name, device, dtype):
    arguments = samples(name, device, dtype)
    assert arguments is not None, f"operator_samples.py has no arguments for {name}"
    for args in arguments:
        torch.library.opcheck(getattr(OPS, name).default, args)


def test_every_public_operator_has_a_typed_function():
    for name in registered():
        if name.startswith("_"):
            continue
        function = getattr(qk_restore, name)
        schema = getattr(OPS, name).default._schema
        parameters = inspect.signature(function).parameters
        assert [a.name for a in schema.arguments] == list(parameters), name
        assert len(function.__doc__ or "") > 80, name
        assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values()), name


def test_typed_functions_reach_the_operators(device):
    for name in registered():
        if name.startswith("_") or name.endswith("_"):
            continue
        for args in samples(name, device):
            got, want = getattr(qk_restore, name)(*args), getattr(OPS, name)(*args)
            for a, b in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
                assert torch.equal(a, b), name


class Block(torch.nn.Module):
    """A layer of a hybrid model from our operators alone."""

    def __init__(self, width=32, heads=2):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.heads, self.dim = heads, width // heads
        self.embedding = torch.nn.Parameter(torch.randn(11, width, generator=generator))
        self.qkv = torch.nn.Parameter(torch.randn(3 * width, width, generator=generator) / width**0.5)
        self.norms = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(n)) for n in (width, width, self.dim)])
        self.register_buffer("slopes", torch.tensor([0.1, 0.5]))

    def forward(self, tokens, ends, cos, sin):
        x = qk_restore.embed_tokens(self.embedding, tokens)
        q, k, v = torch.nn.functional.linear(qk_restore.rms_norm(x, self.norms[0]), self.qkv).view(tokens.shape[0], 3, self.heads, self.dim).unbind(1)
        q, k = (qk_restore.qk_norm_rope(t, self.norms[2], cos, sin) for t in (q, k))
        o, _ = qk_restore.lightning_attention(q, k, v, self.slopes, ends, None, 0.25, True, False)
        o = qk_restore.sigmoid_gate(o.reshape(tokens.shape[0], -1), x)
        y, h = qk_restore.add_rms_norm(x, o, self.norms[1])
        return qk_restore.swiglu(y, h)


def block_inputs(device, tokens=9):
    ends = torch.tensor([0, 4, tokens], dtype=torch.int32, device=device)
    cos, sin = (tensor(tokens, 8, device=device, seed=s) for s in (1, 2))
    return torch.arange(tokens, device=device) % 11, ends, cos, sin


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_fullgraph_forward_and_backward(device, backend):
    torch._dynamo.reset()
    plain, compiled = Block().to(device), Block().to(device)
    run = torch.compile(compiled, fullgraph=True, backend=backend, dynamic=True)
    for tokens in (9, 13):
        plain.zero_grad(), compiled.zero_grad()
        inputs = block_inputs(device, tokens)
        want, got = plain(*inputs), run(*inputs)
        want.square().sum().backward(), got.square().sum().backward()
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        for a, b in zip(compiled.parameters(), plain.parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_compile_serves_every_length_with_one_graph(device):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    run = torch.compile(Block().to(device), fullgraph=True, backend=counter, dynamic=True)
    with torch.no_grad():
        for tokens in (9, 13, 21):
            run(*block_inputs(device, tokens))
    assert counter.frame_count == 1


def test_compile_keeps_what_is_written_in_place(device):
    torch._dynamo.reset()
    q, k, v, slopes, state, scale = samples("lightning_attention_step_", device)[0]

    def two_steps(state):
        first = qk_restore.lightning_attention_step_(q, k, v, slopes, state, scale)
        return first + qk_restore.lightning_attention_step_(q, k, v, slopes, state, scale)

    want_state, got_state = state.clone(), state.clone()
    want = two_steps(want_state)
    got = torch.compile(two_steps, fullgraph=True, backend="aot_eager")(got_state)
    assert torch.equal(got, want) and torch.equal(got_state, want_state) and not torch.equal(got_state, state)


def test_export_and_save(device, tmp_path):
    block, inputs = Block().to(device).eval(), block_inputs(device)
    length = torch.export.Dim("tokens", min=5, max=64)
    program = torch.export.export(block, inputs, dynamic_shapes=({0: length}, None, {0: length}, {0: length}))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert {"qk_restore.rms_norm.default", "qk_restore.lightning_attention.default", "qk_restore.add_rms_norm.default"} <= names
    torch.export.save(program, tmp_path / "block.pt2")
    again = torch.export.load(tmp_path / "block.pt2").module()
    with torch.no_grad():
        for tokens in (9, 17):
            inputs = block_inputs(device, tokens)
            assert torch.equal(again(*inputs), block(*inputs))


NARROW = ["rms_norm", "gated_rms_norm", "qk_norm_rope", "swiglu", "sigmoid_gate", "lightning_attention"]


@pytest.mark.parametrize("name", NARROW)
def test_autocast_takes_the_narrow_type(name, device):
    args = samples(name, device)[0]
    with torch.autocast(device, torch.bfloat16):
        out = getattr(OPS, name)(*args)
    out = out[0] if isinstance(out, tuple) else out
    narrow = samples(name, device, torch.bfloat16)[0]
    want = getattr(OPS, name)(*narrow)
    want = want[0] if isinstance(want, tuple) else want
    assert out.dtype == torch.bfloat16
    if name != "qk_norm_rope":  # whose factor is drawn after
        assert torch.equal(out, want)
    out.float().sum().backward()
    assert args[0].grad is not None and args[0].grad.dtype == torch.float32


def test_autocast_mixes_dtypes_that_meet_in_a_model(device):
    x, weight = tensor(5, 16, device=device, dtype=torch.bfloat16), tensor(16, device=device)
    with pytest.raises(RuntimeError, match="weight must be BFloat16"):
        qk_restore.rms_norm(x, weight)
    with torch.autocast(device, torch.bfloat16):
        assert qk_restore.rms_norm(x, weight).dtype == torch.bfloat16
        normed, h = qk_restore.add_rms_norm(x.float(), x, weight)  # the residual stream stays fp32
        assert h.dtype == normed.dtype == torch.float32
    with torch.autocast(device, torch.float16):  # no fp16 kernel for it: fp32 rather than an error
        args = samples("lightning_attention", device)[1]
        assert qk_restore.lightning_attention(*args)[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["answer_logprobs", "procrustes", "polar", "add_rms_norm", "needle_attention"])
def test_autocast_does_not_reach_inside(name, device):
    """A composite's fp32 products stay fp32: the same bits with and without."""
    args = samples(name, device)[0]
    want = getattr(OPS, name)(*args)
    with torch.autocast(device, torch.bfloat16):
        got = getattr(OPS, name)(*args)
    for a, b in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_autocast_backward_of_lightning_attention_stays_in_fp32(device):
    args = samples("_lightning_attention_bwd", device)[0]
    want = OPS._lightning_attention_bwd(*args)
    with torch.autocast(device, torch.bfloat16):
        got = OPS._lightning_attention_bwd(*args)
    assert all(torch.equal(a, b) for a, b in zip(got, want))
