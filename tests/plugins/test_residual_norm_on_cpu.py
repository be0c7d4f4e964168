"""residual_norm bit by bit on the CPU, through the stand-in for CUDA: every kernel and launch shape that it has."""

import itertools

import pytest

torch = pytest.importorskip("torch", reason="the references are computed with PyTorch")

from kernel_buffers import Buffers, bits  # noqa: E402
from sampling import thinned  # noqa: E402
from ulps import assert_rounded  # noqa: E402

from trtllm_ext.plugin.kernels import load_kernels  # noqa: E402

BUDGET_S = 12

TYPES = (torch.float32, torch.float16, torch.bfloat16)
# In vectors of 16 bytes, what row_plan.h makes of them: part of a warp, one and several warps with 1, 2 and 4 vectors a
# thread, whole blocks exactly full and not, and a row that no block's registers hold.
VECTORS = (1, 7, 8, 11, 16, 17, 32, 33, 128, 129, 256, 500, 512, 513, 1024, 2048, 2049)
ODD_WIDTHS = (1, 5, 33, 513, 4099)
LAYOUTS = ("packed", "apart", "odd", "shifted")
EPS = 1e-5
# Relative error of a float32 operation; a row's sums have few enough, in several chains, to stay below 16 of them.
FLOAT32 = 2.0**-24


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


def drawn(num_tokens, width, dtype, layout="packed", seed=0):
    """Buffers, and x, residual, bias, weight, norm_bias as arguments; a mean far from 0, so that it counts."""
    buffers = Buffers("cpu", seed + width)
    rows = {name: buffers.rows(num_tokens, width, dtype, layout) for name in ("x", "residual")}
    rows["x"] += 1.5
    vectors = {name: buffers.random(width, dtype=dtype) for name in ("bias", "weight", "norm_bias")}
    return buffers, rows | vectors


def added(x, bias=None, residual=None, **_):
    """The sum as it is defined: in float32, in this order, rounded once."""
    total = x.float()
    for other in (bias, residual):
        total = total if other is None else total + other.float()
    return total.to(x.dtype)


def check_norm(sum_, normed, norm, weight=None, norm_bias=None, what="", **_):
    """`normed` is the norm of the rounded sum, once rounded, up to float32's own errors."""
    stream = sum_.double()
    mean = stream.mean(-1, keepdim=True) if norm == "layer_norm" else torch.zeros(())
    inverse = ((stream - mean).square().mean(-1, keepdim=True) + EPS).rsqrt()
    factor = 1.0 if weight is None else weight.double()
    offset = torch.zeros(()) if norm_bias is None else norm_bias.double()
    wanted = (stream - mean) * inverse * factor + offset
    slack = 16 * FLOAT32 * ((stream.abs() + mean.abs()) * inverse * abs(factor) + offset.abs())
    assert_rounded(normed, wanted, slack, what)


def run(kernels, given, buffers, layout="packed", norm="rms_norm", **settings):
    """The sum and the normed rows, in memory of their own that was NaN before."""
    x = given["x"]
    outputs = {name: buffers.poisoned(*x.shape, x.dtype, layout) for name in ("sum", "normed")}
    kernels.residual_norm(**given, **outputs, norm=norm, eps=EPS, **settings)
    buffers.check_around()
    return outputs["sum"], outputs["normed"]


def same(got, wanted):
    return torch.equal(bits(got), bits(wanted))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_every_width(kernels, dtype, norm):
    widths = [vectors * 16 // dtype.itemsize for vectors in VECTORS] + list(ODD_WIDTHS)
    for width in widths:
        buffers, given = drawn(2, width, dtype)
        sum_, normed = run(kernels, given, buffers, norm=norm)
        assert same(sum_, added(**given)), width
        check_norm(sum_, normed, norm, **given, what=f"{width} wide")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_what_is_not_given(kernels, dtype, layout):
    """Every choice of residual, bias, weight and norm_bias, with rows in registers and in passes."""
    names = ("residual", "bias", "weight", "norm_bias")
    chosen = [set(each) for count in range(5) for each in itertools.combinations(names, count)]
    for parts, width in itertools.product(chosen, (64, 41)):
        buffers, given = drawn(2, width, dtype, layout)
        given = {name: value for name, value in given.items() if name in parts | {"x"}}
        sum_, normed = run(kernels, given, buffers, layout, "layer_norm")
        assert same(sum_, added(**given))
        check_norm(sum_, normed, "layer_norm", **given)


# Rows that a block takes more than one turn for, on a device of 132 multiprocessors: of each kernel.
TURNS = [
    *((17000, 64, torch.bfloat16), (4300, 264, torch.bfloat16)),
    *((530, 4096, torch.bfloat16), (140, 4100, torch.float32), (270, 8196, torch.float32)),
    (4300, 7, torch.bfloat16),
]


@pytest.mark.parametrize("num_tokens, width, dtype", thinned(TURNS, every=2, first=1))
def test_blocks_take_turns(kernels, num_tokens, width, dtype):
    buffers, given = drawn(num_tokens, width, dtype)
    sum_, normed = run(kernels, given, buffers, norm="layer_norm")
    assert same(sum_, added(**given))
    check_norm(sum_, normed, "layer_norm", **given)


def test_a_row_does_not_depend_on_its_batch(kernels):
    buffers, given = drawn(37, 520, torch.float32)
    _, whole = run(kernels, given, buffers, norm="layer_norm")
    for first, last in ((0, 1), (36, 37), (5, 14)):
        part = {name: value[first:last] if value.ndim == 2 else value for name, value in given.items()}
        _, normed = run(kernels, part, buffers, norm="layer_norm")
        assert same(normed, whole[first:last])


@pytest.mark.parametrize("width", [64, 41, 16392])
def test_in_place(kernels, width):
    """Each output in x's or the residual's memory, both ways round, and the normed rows alone."""
    buffers, given = drawn(3, width, torch.float16)
    wanted = run(kernels, given, buffers, norm="layer_norm")
    for names in (("x", "residual"), ("residual", "x"), ("x", None), (None, "x"), (None, "residual")):
        here = {name: value.clone() for name, value in given.items()}
        sum_, normed = (here[name] if name else None for name in names)
        kernels.residual_norm(**here, sum=sum_, normed=normed, norm="layer_norm", eps=EPS)
        for got, right in zip((sum_, normed), wanted, strict=True):
            assert got is None or same(got, right), names


def test_the_sum_alone(kernels):
    buffers, given = drawn(3, 41, torch.bfloat16)
    del given["weight"], given["norm_bias"]
    sum_ = buffers.poisoned(3, 41, torch.bfloat16)
    kernels.residual_norm(**given, sum=sum_, norm="no_norm")
    assert same(sum_, added(**given))


def test_minus_zero_stays(kernels):
    for width in (64, 41):
        x, sum_ = torch.full((1, width), -0.0), torch.ones(1, width)
        kernels.residual_norm(x, sum=sum_, norm="no_norm")
        assert same(sum_, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_before_weight_rounds_twice(kernels, dtype):
    buffers, given = drawn(4, 520, dtype)
    del given["norm_bias"]
    sum_, normed = run(kernels, given, buffers, rounding="before_weight")
    stream = sum_.double()
    inner = (stream * (stream.square().mean(-1, keepdim=True) + EPS).rsqrt()).to(dtype)
    twice = (inner.float() * given["weight"].float()).to(dtype)
    _, once = run(kernels, given, buffers)
    # float32 arithmetic puts one in thousands on the other side of a rounding.
    assert (normed != twice).float().mean() < 0.003 < 0.1 < (once != twice).float().mean()


def test_weight_offset(kernels):
    buffers, given = drawn(2, 520, torch.bfloat16)
    sum_, normed = run(kernels, given, buffers, weight_offset=1.0)
    check_norm(sum_, normed, "rms_norm", given["weight"].double() + 1, given["norm_bias"])


def test_a_large_mean_costs_no_accuracy(kernels):
    """Mean, then deviations: E[x^2] - E[x]^2 in float32 would have nothing left here."""
    buffers, given = drawn(3, 4096, torch.float32)
    x = given["x"] + 3000.0
    _, normed = run(kernels, {"x": x}, buffers, norm="layer_norm")
    stream = x.double()
    wanted = (stream - stream.mean(-1, keepdim=True)) / (
        stream.var(-1, correction=0, keepdim=True) + EPS
    ).sqrt()
    # The mean itself is a float32: off by a step of 2^-12 at most.
    assert float((normed.double() - wanted).abs().max()) < 4e-4


@pytest.mark.parametrize("width", [64, 41])
def test_nan_and_infinity_are_ieee(kernels, width):
    buffers, given = drawn(4, width, torch.float32)
    x = given["x"]
    x[1, 3], x[2, 5] = float("nan"), float("inf")
    only = {"x": x, "weight": given["weight"]}
    for norm in ("rms_norm", "layer_norm"):
        sum_, normed = run(kernels, only, buffers, norm=norm)
        assert same(sum_[2], x[2]) and bool(normed[1].isnan().all())
        check_norm(sum_[::3], normed[::3], norm, weight=given["weight"])
    assert bool(normed[2].isnan().all())
    _, normed = run(kernels, only, buffers)
    # 1 / sqrt(inf) is 0, and inf times 0 NaN.
    assert normed[2].isnan().nonzero().tolist() == [[5]] and float(normed[2].nan_to_num().abs().max()) == 0


def test_both_orders_of_threads(kernels, monkeypatch):
    """Nothing depends on which thread of a block comes first between two barriers."""
    for width in (64, 520, 41, 16392):
        buffers, given = drawn(3, width, torch.bfloat16)
        monkeypatch.delenv("CUDA_ON_CPU_ORDER", raising=False)
        forward = run(kernels, given, buffers, norm="layer_norm")
        monkeypatch.setenv("CUDA_ON_CPU_ORDER", "backward")
        backward = run(kernels, given, buffers, norm="layer_norm")
        assert all(map(same, forward, backward)), width
