"""gated_activation on the CPU, through the stand-in for CUDA: every activation to the rounding, and special values."""

import itertools
import math

import pytest

torch = pytest.importorskip("torch", reason="the references are computed with PyTorch")

from kernel_buffers import Buffers, bits  # noqa: E402
from kernel_cases import ACTIVATIONS  # noqa: E402
from ulps import assert_rounded  # noqa: E402

from trtllm_ext.plugin.kernels import load_kernels  # noqa: E402

BUDGET_S = 3

TYPES = (torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("packed", "apart", "odd", "shifted")
FLOAT32 = 2.0**-24
NAN, INFINITY = math.nan, math.inf
# checkpoint.ACTIVATIONS in float64.
FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: torch.where(x > 0, x, 0 * x),
    "gelu_erf": lambda x: x / 2 * torch.special.erfc(-x / math.sqrt(2)),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "squared_relu": lambda x: torch.where(x > 0, x * x, 0 * x),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


def drawn(num_tokens, width, dtype, layout="packed"):
    buffers = Buffers("cpu", num_tokens + width)
    rows = {name: buffers.rows(num_tokens, width, dtype, layout) for name in ("fc", "gate")}
    vectors = {name: buffers.random(width, dtype=dtype) for name in ("fc_bias", "gate_bias")}
    return buffers, rows | vectors


def run(kernels, buffers, given, layout="packed", **settings):
    fc = given["fc"]
    output = buffers.poisoned(*fc.shape, fc.dtype, layout)
    kernels.gated_activation(output=output, **{"activation": "silu", **given, **settings})
    buffers.check_around()
    return output


def check(output, fc, gate=None, fc_bias=None, gate_bias=None, activation="silu", clamp=0.0, gate_offset=0.0):
    """The output is the formula of the inputs, rounded once, up to float32's own errors."""
    limit = clamp or math.inf
    inner = (fc.double() if fc_bias is None else fc.double() + fc_bias.double()).clamp(max=limit)
    factor = torch.ones((), dtype=torch.float64)
    if gate is not None:
        factor = gate.double() if gate_bias is None else gate.double() + gate_bias.double()
        factor = factor.clamp(-limit, limit) + gate_offset
    wanted = FORMULAS[activation](inner) * factor
    # The errors of the arguments' sums and of the function's steps, by what they are multiplied with.
    slack = (
        24
        * FLOAT32
        * (inner.abs().clamp(min=1) ** (2 if activation == "squared_relu" else 1))
        * (factor.abs() + abs(gate_offset) + 1)
    )
    assert_rounded(output, wanted, slack, activation)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(kernels, activation, dtype):
    """With all parts and alone; rows of vectors and of single elements."""
    for width, parts in itertools.product((40, 37), (("fc", "gate", "fc_bias", "gate_bias"), ("fc",))):
        buffers, given = drawn(3, width, dtype)
        given = {name: 3 * given[name] for name in parts}
        settings = {"activation": activation, "clamp": 2.5, "gate_offset": 1.0} if len(parts) > 1 else {}
        settings["activation"] = activation
        check(run(kernels, buffers, given, **settings), **given, **settings)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_parts(kernels, layout):
    for width, names in itertools.product((64, 41), (("gate",), ("fc_bias",), ("gate", "gate_bias"))):
        buffers, given = drawn(5, width, torch.bfloat16, layout)
        given = {name: given[name] for name in ("fc", *names)}
        check(run(kernels, buffers, given, layout), **given)


@pytest.mark.parametrize("num_tokens, width", [(1, 1), (300, 8), (3, 2056), (2, 4099), (70, 30), (1, 20000)])
def test_blocks_and_rows_do_not_line_up(kernels, num_tokens, width):
    buffers, given = drawn(num_tokens, width, torch.float16)
    check(run(kernels, buffers, given), **given)


def test_halves_of_one_buffer_and_in_place(kernels):
    """As a fused product leaves them; the output over either half."""
    for width, over in itertools.product((64, 41), (0, 1)):
        whole = torch.randn(6, 2 * width).to(torch.bfloat16)
        halves = whole[:, :width], whole[:, width:]
        before = whole.clone()
        kernels.gated_activation(halves[0], halves[over], gate=halves[1], activation="silu")
        check(halves[over], before[:, :width], before[:, width:])
        kept = before[:, width:] if over == 0 else before[:, :width]
        assert torch.equal(halves[1 - over], kept)


@pytest.mark.parametrize("width", [8, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_stays_nan(kernels, activation, width):
    """In either factor, with a clamp and without: limits do not make numbers of it."""
    for clamp in (0.0, 1.0):
        fc, gate = torch.ones(2, width), torch.ones(2, width)
        fc[0, 2] = gate[1, 3] = NAN
        output = torch.zeros(2, width)
        kernels.gated_activation(fc, output, gate=gate, activation=activation, clamp=clamp)
        assert output.isnan().nonzero().tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    "activation, low, high",
    [
        ("relu", 0.0, INFINITY),
        ("squared_relu", 0.0, INFINITY),
        ("sigmoid", 0.0, 1.0),
        ("tanh", -1.0, 1.0),
        # -inf times 0, as the formula says.
        ("silu", NAN, INFINITY),
        ("quick_gelu", NAN, INFINITY),
        ("gelu_erf", NAN, INFINITY),
        ("gelu_tanh", NAN, INFINITY),
        ("identity", -INFINITY, INFINITY),
    ],
)
def test_infinities_and_large_numbers(kernels, activation, low, high):
    fc = torch.tensor([[-INFINITY, INFINITY, -3e38, 3e38, -200.0, 200.0, -88.0, 100.0]])
    output = torch.zeros_like(fc)
    kernels.gated_activation(fc, output, activation=activation)
    torch.testing.assert_close(output[0, :2], torch.tensor([low, high]), equal_nan=True)
    assert not output[0, 2:].isnan().any()
    if activation not in ("identity", "squared_relu"):
        assert float(output[0, [2, 4]].nan_to_num(low).abs().max()) <= (1 if activation == "tanh" else 0)


def test_a_clamp_without_a_gate_limits_from_above(kernels):
    fc, output = torch.tensor([[-9.0, 0.5, 9.0]]), torch.zeros(1, 3)
    kernels.gated_activation(fc, output, activation="identity", clamp=2.0)
    assert output.tolist() == [[-9.0, 0.5, 2.0]]


def test_both_orders_of_threads(kernels, monkeypatch):
    buffers, given = drawn(9, 1000, torch.float16)
    forward = run(kernels, buffers, given)
    monkeypatch.setenv("CUDA_ON_CPU_ORDER", "backward")
    assert torch.equal(bits(run(kernels, buffers, given)), bits(forward))
