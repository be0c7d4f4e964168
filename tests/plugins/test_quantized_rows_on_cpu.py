"""residual_norm's int8 and float8 rows on the CPU: scales, rounding, saturation, and what becomes of NaN."""

import pytest

torch = pytest.importorskip("torch", reason="the references are computed with PyTorch")

from kernel_buffers import Buffers, bits  # noqa: E402

from trtllm_ext.plugin.kernels import load_kernels  # noqa: E402

BUDGET_S = 3

EPS = 1e-5
LARGEST = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}
TYPES = (torch.float32, torch.float16, torch.bfloat16)
# float32: a row of one vector, of registers with 1, 2 and 4 vectors a thread, of passes, and of single elements.
WIDTHS = (16, 128, 1024, 4096, 16400, 41)


@pytest.fixture(scope="module")
def kernels(kernels_on_cpu):
    return load_kernels(kernels_on_cpu)


def quantize(kernels, x, kind, layout="packed", normed=False, norm="rms_norm", **given):
    """The quantized rows, their scales, and the normed rows in float64, as the kernel has them before it rounds."""
    buffers = Buffers("cpu", 0)
    rows = buffers.poisoned(*x.shape, kind, layout)
    scales = torch.full((len(x),), float("nan"))
    outputs = {"normed": torch.empty_like(x)} if normed else {}
    kernels.residual_norm(x, norm=norm, eps=EPS, quantized=rows, scales=scales, **outputs, **given)
    buffers.check_around()
    return rows, scales, outputs.get("normed")


def rounded_to(values, kind):
    """float32 values as the type, the nearest with ties to even, saturated."""
    if kind == torch.int8:
        return values.round().clamp(-128, 127).to(kind)
    return values.clamp(-448, 448).to(kind)


@pytest.mark.parametrize("kind", LARGEST, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_rows_are_what_float32_makes_of_the_normed_row(kernels, kind, width):
    """In float32 the normed rows are not rounded, so that all that follows can be told bit by bit."""
    x, weight = torch.randn(3, width), torch.randn(width)
    rows, scales, normed = quantize(kernels, x, kind, normed=True, weight=weight)
    assert torch.equal(scales, normed.abs().amax(-1) / LARGEST[kind])
    assert torch.equal(bits(rows), bits(rounded_to(normed / scales[:, None], kind)))
    assert float(rows.float().abs().amax()) == LARGEST[kind]


@pytest.mark.parametrize("kind", LARGEST, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", ["packed", "apart", "odd", "shifted"])
def test_types_and_layouts(kernels, kind, dtype, layout):
    """The normed value is quantized before it is rounded to the type of x."""
    x = torch.randn(5, 64).to(dtype)
    rows, scales, _ = quantize(kernels, x, kind, layout, norm="layer_norm")
    wide, wide_scales, _ = quantize(kernels, x.float(), kind, norm="layer_norm")
    torch.testing.assert_close(scales, wide_scales, rtol=1e-6, atol=0)
    # The orders of the sums differ with the type, so a rounding may turn over here and there, by one step.
    differ = bits(rows).int() - bits(wide).int()
    assert int(differ.abs().max()) <= 1 and float((differ != 0).float().mean()) < 0.01


@pytest.mark.parametrize("kind", LARGEST, ids=str)
@pytest.mark.parametrize("width", [64, 41, 16400])
def test_rows_without_a_largest_value(kernels, kind, width):
    x = torch.randn(4, width)
    x[0], x[2, 3], x[3, 5] = 0.0, float("nan"), float("inf")
    rows, scales, _ = quantize(kernels, x, kind)
    assert float(scales[0]) == 0 and not bits(rows[0]).any()
    assert 0 < float(scales[1]) < 1
    # A NaN anywhere, or an infinity, whose norm is one: the scale says so, also where int8 cannot.
    assert bool(scales[2:].isnan().all())
    nothing = bits(rows[2:]) == (0 if kind == torch.int8 else 0x7F)
    assert bool(nothing.all())


@pytest.mark.parametrize("kind", LARGEST, ids=str)
def test_rows_too_small_for_a_scale_are_zeros(kernels, kind):
    """A scale that float32 cannot hold is 0, and dividing by it gives no infinities."""
    x, weight = torch.randn(2, 64), torch.full((64,), 2.0**-149)
    rows, scales, _ = quantize(kernels, x, kind, weight=weight)
    assert not scales.any() and not bits(rows).any()
