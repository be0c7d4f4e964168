"""Sessions over INT8 and FP8 inputs and outputs, as numpy arrays and torch tensors."""

import ml_dtypes
import numpy as np
import pytest
from small_engines import build, packed

import trtllm_ext as tx
from trtllm_ext.errors import InputError
from trtllm_ext.graph import functional

BUDGET_S = 6

NUMPY = {"int8": np.dtype(np.int8), "fp8": np.dtype(ml_dtypes.float8_e4m3fn)}
TORCH = {"int8": "int8", "fp8": "float8_e4m3fn"}


@pytest.fixture(scope="module", params=sorted(NUMPY))
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def session(dtype):
    def define():
        x = packed(dtype=dtype)
        functional.cast(x, "float32").mark_output("wide")
        functional.cast(functional.cast(x, "float16"), dtype).mark_output("same", dtype)

    return tx.Session.from_serialized_engine(build(define))


def bits(rows):
    return np.random.default_rng(rows).integers(0, 256, (rows, 8)).astype(np.uint8)


@pytest.mark.parametrize("rows", [1, 5, 16])
def test_numpy(session, dtype, rows):
    x = bits(rows).view(NUMPY[dtype])
    got = session.run({"x": x})
    assert got["same"].dtype == NUMPY[dtype]
    assert got["same"].tobytes() == x.tobytes()
    np.testing.assert_array_equal(got["wide"], x.astype(np.float32))


def test_torch(session, dtype):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(bits(3)).view(getattr(torch, TORCH[dtype]))
    got = session.run({"x": x})
    assert got["same"].dtype == x.dtype
    assert bytes(got["same"].view(torch.uint8).numpy()) == bytes(x.view(torch.uint8).numpy())
    torch.testing.assert_close(got["wide"], x.float(), rtol=0, atol=0, equal_nan=True)


def test_other_types_are_refused(session, dtype):
    with pytest.raises(InputError, match=rf"expected {TORCH[dtype]}.*Nothing is converted silently"):
        session.run({"x": np.zeros((3, 8), np.uint8)})


def test_torch_constants(dtype):
    torch = pytest.importorskip("torch")
    values = torch.from_numpy(bits(4)).view(getattr(torch, TORCH[dtype]))

    def define():
        functional.constant(values).mark_output("y", dtype)

    session = tx.Session.from_serialized_engine(build(define))
    for _ in range(2):
        got = session.run({})["y"]
    assert got.shape == (4, 8)
    assert got.dtype == NUMPY[dtype]
    assert got.tobytes() == bytes(values.view(torch.uint8).numpy())
