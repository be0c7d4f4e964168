"""The PyTorch operators on a GPU: the kernels' numbers, under torch.compile and in CUDA graphs."""

import pytest
from gpu import lab_or_skip

lab_or_skip()

import kernel_formulas as formulas  # noqa: E402
import torch  # noqa: E402

from trtllm_ext.errors import InputError  # noqa: E402
from trtllm_ext.plugin import torch_ops, torch_plans  # noqa: E402

BUDGET_S = 120


def random(*shape, dtype=torch.bfloat16, scale=1.0):
    return (scale * torch.randn(shape, device="cuda")).to(dtype)


def block(x, stream, weights):
    stream, normed = torch_ops.residual_norm(x, stream, weight=weights["gamma"], norm="rms_norm")
    inner = torch_ops.gated_activation(normed, x, activation="gelu_erf")
    return stream, torch_ops.feed_forward(
        inner, weights["fc"], weights["proj"], weights["gate"], residual=stream, activation="silu"
    )


def block_inputs(num_tokens, hidden=256, ffn=1024):
    weights = {name: random(ffn, hidden, scale=hidden**-0.5) for name in ("fc", "gate")}
    weights |= {"proj": random(hidden, ffn, scale=ffn**-0.5), "gamma": random(hidden)}
    return random(2, num_tokens, hidden), random(2, num_tokens, hidden), weights


def wanted_of(x, stream, weights):
    total = formulas.added(x, stream)
    normed = formulas.rounded(formulas.normed(total, x.dtype, weights["gamma"], norm="rms_norm"), x.dtype)
    inner = formulas.gated(normed, x, activation="gelu_erf").to(x.dtype)
    given = {
        "x": inner,
        "fc_weight": weights["fc"],
        "proj_weight": weights["proj"],
        "gate_weight": weights["gate"],
    }
    return total, formulas.feed_forward(given | {"residual": total}, activation="silu")


def check(results, inputs):
    for got, wanted in zip(results, wanted_of(*inputs), strict=True):
        # Three operators, each rounding what the next one reads.
        assert formulas.relative_error(got, wanted) <= 8e-3


@pytest.mark.parametrize("num_tokens", [0, 1, 33, 1025])
def test_numbers(num_tokens):
    inputs = block_inputs(num_tokens)
    check(block(*inputs), inputs)


def test_compiled_in_one_graph():
    compiled = torch.compile(block, fullgraph=True, dynamic=True)
    for num_tokens in (5, 64):
        inputs = block_inputs(num_tokens)
        check(compiled(*inputs), inputs)


def test_in_a_cuda_graph():
    inputs = block_inputs(17)
    block(*inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = block(*inputs)
    inputs[0].copy_(random(*inputs[0].shape))
    graph.replay()
    torch.cuda.synchronize()
    check(results, inputs)


def test_on_a_stream_of_ones_own():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        inputs = block_inputs(9)
        results = block(*inputs)
    stream.synchronize()
    check(results, inputs)


@pytest.mark.parametrize("name", ["residual_norm", "gated_activation", "feed_forward"])
def test_pytorch_finds_nothing_wrong(name):
    x, stream, weights = block_inputs(3)
    calls = {
        "residual_norm": ((x, stream), {"norm": "layer_norm"}),
        "gated_activation": ((x, stream), {"activation": "silu"}),
        "feed_forward": ((x, weights["fc"], weights["proj"]), {"activation": "relu"}),
    }
    torch.library.opcheck(getattr(torch.ops.trtllm_ext, name).default, *calls[name])


def test_plans_are_shared_and_given_back():
    torch_plans.forget_plans()
    inputs = block_inputs(3)
    for num_tokens in (1, 2, 3):
        block(inputs[0][:, :num_tokens], inputs[1][:, :num_tokens], inputs[2])
    assert len(torch_plans._plans) == 1
    before = torch.cuda.memory_allocated()
    for _ in range(20):
        block(*inputs)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    torch_plans.forget_plans()
    assert not torch_plans._plans


def test_tuning_keeps_the_numbers():
    inputs = block_inputs(48)
    x, stream, weights = inputs
    given = {"residual": stream, "gate_weight": weights["gate"], "activation": "silu"}
    torch_ops.tune_feed_forward(x, weights["fc"], weights["proj"], **given)
    check(block(*inputs), inputs)


def test_tensors_of_two_devices_are_refused():
    with pytest.raises((InputError, RuntimeError), match=r"on cpu|same device"):
        torch_ops.residual_norm(random(2, 8), torch.zeros(2, 8, dtype=torch.bfloat16), norm="rms_norm")
