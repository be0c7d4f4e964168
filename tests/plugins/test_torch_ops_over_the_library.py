"""The GPU road of the PyTorch operators, tried without a GPU: the same calls, into the library compiled for the CPU."""

from contextlib import nullcontext

import pytest

torch = pytest.importorskip("torch", reason="the operators are PyTorch's: pip install torch")

from trtllm_ext.errors import KernelError  # noqa: E402
from trtllm_ext.plugin import torch_checks, torch_ops, torch_plans  # noqa: E402
from trtllm_ext.plugin.kernels import load_kernels  # noqa: E402

BUDGET_S = 4


@pytest.fixture
def on_gpu(monkeypatch, kernels_on_cpu):
    """An operator's GPU implementation, by the operator's name."""
    library = load_kernels(kernels_on_cpu)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    for module in (torch_ops, torch_plans):
        monkeypatch.setattr(module, "kernels", lambda: library)
    yield lambda name: getattr(torch_ops, name)._backend_fns["cuda"]
    torch_plans.forget_plans()


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def same(on_gpu, name, *tensors, **settings):
    """Both implementations give the same, but for the last rounding."""
    got = on_gpu(name)(*tensors, **settings)
    wanted = getattr(torch_ops, name)(*tensors, **settings)
    for one, other in zip(
        *((each if isinstance(each, tuple) else (each,)) for each in (got, wanted)), strict=True
    ):
        assert (one.shape, one.dtype, one.stride()) == (other.shape, other.dtype, other.stride())
        step = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}.get(other.dtype, 0.13)
        torch.testing.assert_close(one.float(), other.float(), rtol=step, atol=step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_residual_norm(on_gpu, dtype):
    rows = random(2, 3, 20, dtype=dtype), random(2, 3, 20, dtype=dtype, seed=1)
    vectors = [random(20, dtype=dtype, seed=n) for n in range(3)]
    same(on_gpu, "residual_norm", *rows, *vectors, norm="rms_norm", eps=1e-3)
    same(on_gpu, "residual_norm", rows[0], norm="layer_norm")
    same(
        on_gpu,
        "residual_norm",
        rows[0],
        rows[1],
        None,
        vectors[0],
        norm="layer_norm",
        rounding="before_weight",
    )
    same(on_gpu, "residual_norm_quantized", *rows, *vectors, norm="layer_norm", dtype=torch.int8)
    given = {"weight": vectors[0], "norm": "rms_norm", "dtype": torch.float8_e4m3fn}
    same(on_gpu, "residual_norm_quantized", rows[0], **given)


def test_rows_that_lie_in_any_way(on_gpu):
    wide = random(5, 64)
    same(on_gpu, "residual_norm", wide[:, 3:40], wide[:, 20:57], norm="layer_norm")
    same(on_gpu, "residual_norm", wide.T, wide.T, norm="layer_norm")
    same(on_gpu, "gated_activation", *wide.chunk(2, dim=-1), activation="gelu_tanh")
    same(on_gpu, "gated_activation", random(7)[None].expand(3, 7), random(3, 7), activation="silu")
    same(on_gpu, "gated_activation", random(9), activation="relu")
    same(on_gpu, "gated_activation", wide[:0], activation="silu")


def test_gated_activation(on_gpu):
    given = random(3, 10), random(3, 10, seed=1), random(10), random(10, seed=1)
    same(on_gpu, "gated_activation", *given, activation="quick_gelu", clamp=0.7, gate_offset=1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_feed_forward(on_gpu, dtype):
    shapes = {"x": (3, 2, 12), "fc": (20, 12), "proj": (12, 20), "gate": (20, 12)}
    x, fc, proj, gate = (random(*shape, dtype=dtype) / 4 for shape in shapes.values())
    biases = random(20, dtype=dtype), random(20, dtype=dtype, seed=1), random(12, dtype=dtype)
    residual = random(3, 2, 12, dtype=dtype)
    for _ in range(2):
        same(on_gpu, "feed_forward", x, fc, proj, gate, *biases, residual, activation="silu")
        same(on_gpu, "feed_forward", x, fc.T.contiguous().T, proj, activation="relu", tf32=True)
        same(on_gpu, "feed_forward", x[:0], fc, proj, activation="relu")
    # A plan a form, however often and for however many tokens it is run.
    assert len(torch_plans._plans) == 3
    given = torch_checks.feed_forward_tensors(x, fc, proj, *[None] * 5)
    with pytest.raises(KernelError, match="cublasLt"):
        torch_ops._on_plan("tune", given, "relu", 0.0, 0.0, False)
