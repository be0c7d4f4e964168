"""Enumerations, Dims, Permutation, Weights, Logger: they behave as the native ones do."""

import gc

import ml_dtypes
import numpy as np
import pytest

import trtllm_ext.embedded as trt

BUDGET_S = 5


def test_enumerations_are_not_numbers_but_convert():
    assert str(trt.LayerType.MATRIX_MULTIPLY) == "LayerType.MATRIX_MULTIPLY"
    assert repr(trt.float32) == "<DataType.FLOAT: 0>"
    assert trt.float32 != 0 and trt.float32 != trt.ActivationType.RELU
    assert int(trt.BuilderFlag.BF16) == 17 and hash(trt.BuilderFlag.BF16) == hash(17)
    assert 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 2
    assert "EXPLICIT_BATCH" in trt.NetworkDefinitionCreationFlag.__members__
    assert trt.DataType(1) is trt.float16
    assert trt.BuilderFlag.STRIP_PLAN is trt.BuilderFlag.WEIGHTLESS
    assert ["a", "b"][trt.GatherMode.ELEMENT] == "b"
    with pytest.raises(TypeError):
        _ = trt.float32 < trt.float16


def test_numbers_are_those_of_tensorrt_10_14():
    # A sample of each of the larger enumerations: those whose numbers are not in the order of the names.
    assert {
        name: int(trt.DataType.__members__[name]) for name in ("BF16", "INT64", "BOOL", "FP8", "E8M0")
    } == {
        "BF16": 7,
        "INT64": 8,
        "BOOL": 4,
        "FP8": 6,
        "E8M0": 11,
    }
    assert int(trt.LayerType.CAST) == 1 and int(trt.LayerType.NORMALIZATION) == 45
    assert int(trt.ActivationType.GELU_ERF) == 12 and int(trt.UnaryOperation.ISNAN) == 24
    assert int(trt.SampleMode.FILL) == 3 and int(trt.ProfilingVerbosity.DETAILED) == 2
    assert int(trt.ILogger.Severity.VERBOSE) == int(trt.Logger.VERBOSE) == 4


def test_item_sizes():
    assert [dtype.itemsize for dtype in (trt.float32, trt.bfloat16, trt.int64, trt.bool)] == [4, 2, 8, 1]
    assert trt.int4.itemsize == 0.5


def test_dims():
    dims = trt.Dims([1, -1, 3])
    assert dims == (1, -1, 3) == dims and dims == [1, -1, 3] and dims != (1, 2, 3)
    assert (len(dims), dims[-1], dims[0:2], tuple(dims), repr(dims)) == (
        3,
        3,
        (1, -1),
        (1, -1, 3),
        "(1, -1, 3)",
    )
    dims[1] = 2
    assert dims == (1, 2, 3)
    assert trt.Dims() == () and trt.Dims(dims) == dims and trt.Dims(np.array([4, 5])) == (4, 5)
    assert trt.Dims4(1, 2, 3, 4) == trt.Dims4([1, 2, 3, 4]) == (1, 2, 3, 4)
    with pytest.raises(ValueError, match="Max expected length is 8"):
        trt.Dims([1] * 9)
    for wrong in (3, "12", [1.5], None):
        with pytest.raises(TypeError):
            trt.Dims(wrong)
    with pytest.raises(IndexError):
        dims[3]
    with pytest.raises(TypeError):
        hash(dims)


def test_permutations_are_eight_long():
    order = trt.Permutation([2, 0, 1])
    assert list(order) == [2, 0, 1, 0, 0, 0, 0, 0] and len(order) == 8
    assert order == trt.Permutation((2, 0, 1)) and order != trt.Permutation()
    with pytest.raises(ValueError):
        trt.Permutation(range(9))


def test_volume_and_nptype():
    assert trt.volume(trt.Dims([2, 3])) == 6 and trt.volume(()) == 1
    assert trt.nptype(trt.float16) is np.float16 and trt.nptype(trt.bool) is np.bool_
    for dtype in (trt.bfloat16, trt.fp8):
        with pytest.raises(TypeError):
            trt.nptype(dtype)


def test_weights_keep_the_array_alive_and_see_changes():
    array = np.arange(3, dtype=np.float32)
    weights = trt.Weights(array)
    array[0] = 7
    assert (weights.dtype, weights.size, weights.nbytes, len(weights)) == (trt.float32, 3, 12, 3)
    del array
    gc.collect()
    assert weights.numpy().tolist() == [7, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.int32, np.bool_, ml_dtypes.bfloat16])
def test_weights_of_an_address(dtype):
    array = np.array([[1, 0, 1]], dtype=dtype)
    weights = trt.Weights(trt.Weights(array).dtype, array.ctypes.data, 3)
    assert weights.numpy().dtype == array.dtype
    assert weights.numpy().tobytes() == array.tobytes()
    array[0, 0] = 0
    assert weights.numpy().tolist() == [0, 0, 1]


def test_weights_of_nothing_and_of_a_scalar():
    assert trt.Weights().size == 0 and trt.Weights(trt.int64).numpy().shape == (0,)
    assert trt.Weights(np.array(2.0, np.float32)).size == 1
    assert trt.Weights(np.empty((0, 3), np.float16)).numpy().shape == (0,)


def test_what_cannot_be_weights():
    with pytest.raises(ValueError, match="float64"):
        trt.Weights(np.zeros(2))
    with pytest.raises(ValueError, match="contiguous"):
        trt.Weights(np.zeros((2, 3), np.float32).T)
    with pytest.raises(ValueError, match="address 0"):
        trt.Weights(trt.float32, 0, 5)
    for wrong in ([1.0], None, np.float32(1)):
        with pytest.raises(TypeError):
            trt.Weights(wrong)


def test_logger_writes_what_is_severe_enough(capsys):
    logger = trt.Logger(trt.Logger.WARNING)
    logger.log(trt.Logger.INFO, "quiet")
    logger.log(trt.Logger.ERROR, "loud")
    logger.min_severity = trt.Logger.VERBOSE
    logger.log(trt.Logger.VERBOSE, "detail")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("] ")[2] for line in lines] == ["[TRT] [E] loud", "[TRT] [V] detail"]


def test_a_logger_must_say_where_messages_go():
    with pytest.raises(RuntimeError, match="override"):
        trt.ILogger().log(trt.Logger.ERROR, "x")
