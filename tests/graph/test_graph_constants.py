"""Constants, ranges, casts; what memory they stand on."""

import ml_dtypes
import numpy as np
import pytest
from sampling import covered

import trtllm_ext.embedded as trt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import functional as fn
from trtllm_ext.graph.arrays import as_array

BUDGET_S = 12

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64, np.bool_]


@covered(dtype=DTYPES, shape=[(2, 3), (), (0, 3)])
def test_constant(run, dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2).astype(dtype)
    got = run(lambda x: (fn.identity(fn.constant(array)), x), np.zeros(1, np.float32))[0]
    assert got.dtype == array.dtype and got.shape == shape
    np.testing.assert_array_equal(got.astype(np.float32), array.astype(np.float32))


def test_constants_borrow_their_memory(guarded):
    array = np.zeros((4, 4), np.float32)
    assert np.shares_memory(fn.constant(array).host_array, array)
    assert not np.shares_memory(fn.constant(array.T).host_array, array)  # strided: copied


def test_array_forms():
    torch = pytest.importorskip("torch", reason="torch is an extra")
    tensor = torch.arange(4, dtype=torch.bfloat16)
    array = as_array(tensor)
    assert array.dtype == ml_dtypes.bfloat16
    assert array.ctypes.data == tensor.data_ptr()
    half = torch.ones(3, dtype=torch.float16)
    assert as_array(half).ctypes.data == half.data_ptr()
    stand_in = array.view("V2")
    assert as_array(stand_in).dtype == ml_dtypes.bfloat16
    assert as_array(2.5).dtype == np.float32
    assert as_array(np.array([1, 2], ">i4")).dtype == np.int32
    with pytest.raises(GraphError, match="a list cannot be a constant or a weight"):
        as_array([1.0])


def test_packed_constants(run, guarded):
    packed = np.arange(6, dtype=np.float32).astype(np.float16).view(np.int16)
    got = run(
        lambda x: (fn.identity(fn.constant(packed, as_dtype="float16", as_shape=(2, 3))), x),
        np.zeros(1, np.float32),
    )
    np.testing.assert_array_equal(got[0], np.arange(6).reshape(2, 3))
    with pytest.raises(
        GraphError, match=r"a constant float32 \(2, 3\) has 24 bytes, the array \(int32 \(2,\)\) has 8"
    ):
        fn.constant(np.zeros(2, np.int32), as_dtype=trt.float32, as_shape=(2, 3))


def test_constant_errors(guarded):
    with pytest.raises(GraphError, match="numpy dtype float64 has no TensorRT type"):
        fn.constant(np.zeros(2))


def test_arange_of_ints(run):
    got = run(lambda x: (fn.arange(2, 7, "int32"), fn.arange(0, 3, "float16"), x), np.zeros(1, np.float32))
    np.testing.assert_array_equal(got[0], np.arange(2, 7, dtype=np.int32))
    assert got[1].dtype == np.float16


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float16])
def test_arange_of_tensors(run, dtype):
    x = np.zeros((5, 2), np.float32)
    to = {np.int32: "int32", np.int64: "int64", np.float32: "float32", np.float16: "float16"}[dtype]
    both = run(
        lambda x: (fn.arange(0, fn.shape(x, 0), to), fn.arange(fn.shape(x, 1), fn.shape(x, 0), to)),
        x,
        shapes=[(-1, -1)],
    )
    np.testing.assert_array_equal(both[0], np.arange(5))
    np.testing.assert_array_equal(both[1], np.arange(2, 5))
    assert both[0].dtype == both[1].dtype == dtype


def test_cast(run):
    x = np.array([1.7, -1.7, 0.0, 300.0], np.float32)
    got = run(
        lambda x: [fn.cast(x, name) for name in ("int32", "float16", "bool", "int64")] + [x.cast("bfloat16")],
        x,
    )
    np.testing.assert_array_equal(got[0], [1, -1, 0, 300])
    np.testing.assert_array_equal(got[1], x.astype(np.float16))
    np.testing.assert_array_equal(got[2], [True, True, False, True])
    assert got[3].dtype == np.int64
    np.testing.assert_array_equal(got[4].astype(np.float32), x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_cast_to_the_same_type_adds_nothing(guarded):
    network, add_input = guarded
    x = add_input("x", "float32", [2])
    assert fn.cast(x, "float32") is x
    assert fn.cast(x, trt.float32) is x
    assert network.trt_network.num_layers == 0


def test_cast_errors(guarded):
    _, add_input = guarded
    x = add_input("x", "float32", [2])
    with pytest.raises(GraphError, match="dtype 'float33' is not known; it is one of float32"):
        fn.cast(x, "float33")
    with pytest.raises(TypeError, match="dtype is a type"):
        fn.cast(x, np.float32)
