"""What a rule says is known is true, and when everything is known it says everything.

Each property draws a layer with exact inputs, computes its output with numpy, and then hides lengths and values of
the inputs: whatever the rule still claims must agree with numpy.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import examples

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import Known, RuleError, infer
from trtllm_ext.embedded.types import storage_dtype

BUDGET_S = 10
SETTINGS = settings(max_examples=examples(60), deadline=None)

small = st.integers(0, 4)
shapes = st.lists(small, max_size=3).map(tuple)


def known(array, dtype=trt.int64):
    value = np.empty(array.shape, dtype=object)
    value.reshape(-1)[:] = array.reshape(-1).tolist()
    return Known(dtype, array.shape, value if array.size <= 64 else None)


@st.composite
def hidden(draw, one, *, lengths=True):
    """`one` with some lengths or some values hidden."""
    if lengths and draw(st.booleans()):
        return Known(one.dtype, tuple(draw(st.sampled_from([length, -1])) for length in one.shape))
    if one.value is None or draw(st.booleans()):
        return one
    value = one.value.copy()
    for place in np.ndindex(*value.shape):
        if draw(st.booleans()):
            value[place] = None
    return Known(one.dtype, one.shape, value)


def assert_true_of(claim, truth):
    assert len(claim.shape) == truth.ndim
    assert all(length in (-1, real) for length, real in zip(claim.shape, truth.shape, strict=True))
    if claim.value is not None:
        for place in np.ndindex(*truth.shape):
            element = claim.value[place]
            assert element is None or element == truth[place], (claim, truth)


def assert_sound(data, kind, attributes, inputs, truth, *, vectors=(), exact_value=True):
    """vectors: inputs whose length must stay known, since a rank depends on it."""
    [exact] = infer(kind, attributes, inputs, True)
    assert exact.shape == truth.shape
    assert_true_of(exact, truth)
    if exact_value and truth.size <= 64:
        assert exact.has_value
    partial = [
        data.draw(hidden(one, lengths=number not in vectors)) if one is not None else None
        for number, one in enumerate(inputs)
    ]
    [claim] = infer(kind, attributes, partial, True)
    assert claim.dtype == exact.dtype
    assert_true_of(claim, truth)


def integers(shape, low=-9, high=9):
    return st.lists(st.integers(low, high), min_size=int(np.prod(shape)), max_size=int(np.prod(shape))).map(
        lambda flat: np.array(flat, np.int64).reshape(shape)
    )


def vector(numbers):
    return known(np.array(numbers, np.int64).reshape(-1))


@st.composite
def broadcastable(draw, count):
    full = draw(shapes)
    return [
        draw(integers(tuple(draw(st.sampled_from([length, 1])) for length in full))) for _ in range(count)
    ]


BINARY = {
    "SUM": np.add,
    "PROD": np.multiply,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "SUB": np.subtract,
    "EQUAL": np.equal,
    "GREATER": np.greater,
    "LESS": np.less,
}


@SETTINGS
@given(data=st.data(), arrays=broadcastable(2), op=st.sampled_from(sorted(BINARY)))
def test_elementwise(data, arrays, op):
    attributes = {"op": trt.ElementWiseOperation.__members__[op]}
    truth = BINARY[op](*arrays)
    assert_sound(data, trt.LayerType.ELEMENTWISE, attributes, [known(array) for array in arrays], truth)


@SETTINGS
@given(data=st.data(), arrays=broadcastable(2), op=st.sampled_from(["DIV", "FLOOR_DIV"]))
def test_division_of_integers(data, arrays, op):
    a, b = arrays[0], np.where(arrays[1] == 0, 3, arrays[1])
    truth = np.trunc(a / b).astype(np.int64) if op == "DIV" else a // b
    attributes = {"op": trt.ElementWiseOperation.__members__[op]}
    assert_sound(data, trt.LayerType.ELEMENTWISE, attributes, [known(a), known(b)], truth)


@SETTINGS
@given(data=st.data(), arrays=broadcastable(2), op=st.sampled_from(["AND", "OR", "XOR"]))
def test_logic(data, arrays, op):
    a, b = (array > 0 for array in arrays)
    truth = {"AND": a & b, "OR": a | b, "XOR": a ^ b}[op]
    attributes = {"op": trt.ElementWiseOperation.__members__[op]}
    operands = [known(a, trt.bool), known(b, trt.bool)]
    assert_sound(data, trt.LayerType.ELEMENTWISE, attributes, operands, truth)


@SETTINGS
@given(data=st.data(), arrays=broadcastable(3))
def test_select(data, arrays):
    condition = arrays[0] > 0
    truth = np.where(condition, arrays[1], arrays[2])
    inputs = [known(condition, trt.bool), known(arrays[1]), known(arrays[2])]
    assert_sound(data, trt.LayerType.SELECT, {}, inputs, truth)


@SETTINGS
@given(data=st.data(), array=shapes.flatmap(integers), op=st.sampled_from(["ABS", "NEG", "SIGN"]))
def test_unary(data, array, op):
    truth = {"ABS": np.abs, "NEG": np.negative, "SIGN": np.sign}[op](array)
    attributes = {"op": trt.UnaryOperation.__members__[op]}
    assert_sound(data, trt.LayerType.UNARY, attributes, [known(array)], truth)


FLOAT_UNARY = {
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "ROUND": np.round,
    "SQRT": lambda a: np.sqrt(np.abs(a)),
    "NEG": np.negative,
    "ABS": np.abs,
}
floats = st.lists(st.floats(-1e6, 1e6, width=32), max_size=5).map(lambda flat: np.array(flat, np.float32))


@SETTINGS
@given(data=st.data(), array=floats, op=st.sampled_from(sorted(FLOAT_UNARY)))
def test_unary_of_floats(data, array, op):
    array = np.abs(array) if op == "SQRT" else array
    attributes = {"op": trt.UnaryOperation.__members__[op]}
    assert_sound(data, trt.LayerType.UNARY, attributes, [known(array, trt.float32)], FLOAT_UNARY[op](array))


@SETTINGS
@given(data=st.data(), a=floats, b=st.floats(-1e6, 1e6, width=32), op=st.sampled_from(["SUM", "PROD", "DIV"]))
def test_float_arithmetic_is_that_of_float32(data, a, b, op):
    b = np.array([b or 1.5], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        truth = {"SUM": np.add, "PROD": np.multiply, "DIV": np.divide}[op](a, b)
    attributes = {"op": trt.ElementWiseOperation.__members__[op]}
    operands = [known(a, trt.float32), known(b, trt.float32)]
    assert_sound(data, trt.LayerType.ELEMENTWISE, attributes, operands, truth)


@SETTINGS
@given(data=st.data(), array=shapes.flatmap(integers), to=st.sampled_from([trt.int32, trt.bool, trt.float32]))
def test_cast(data, array, to):
    truth = array.astype(storage_dtype(to))
    assert_sound(data, trt.LayerType.CAST, {"to_type": to}, [known(array)], truth)


@SETTINGS
@given(data=st.data(), array=floats)
def test_cast_of_floats_truncates(data, array):
    operand = known(array, trt.float32)
    assert_sound(data, trt.LayerType.CAST, {"to_type": trt.int64}, [operand], array.astype(np.int64))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 3e9, -3e9])
def test_cast_of_what_does_not_fit_is_not_known(number):
    operand = known(np.array([number, 1.0], np.float32), trt.float32)
    [claim] = infer(trt.LayerType.CAST, {"to_type": trt.int32}, [operand], True)
    assert claim.value.tolist() == [None, 1]


def test_overflow_is_not_known():
    operand = known(np.array([2**31 - 1, 5], np.int32), trt.int32)
    attributes = {"op": trt.ElementWiseOperation.SUM}
    [claim] = infer(trt.LayerType.ELEMENTWISE, attributes, [operand, operand], True)
    assert claim.value.tolist() == [None, 10]


REDUCTIONS = {"SUM": np.sum, "PROD": np.prod, "MAX": np.max, "MIN": np.min}


@SETTINGS
@given(data=st.data(), op=st.sampled_from(sorted(REDUCTIONS)), keep=st.booleans())
def test_reduce(data, op, keep):
    array = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(integers))
    mask = data.draw(st.integers(1, 2**array.ndim - 1))
    axes = tuple(axis for axis in range(array.ndim) if mask >> axis & 1)
    truth = np.asarray(REDUCTIONS[op](array, axis=axes, keepdims=keep))
    attributes = {"op": trt.ReduceOperation.__members__[op], "axes": mask, "keep_dims": keep}
    assert_sound(data, trt.LayerType.REDUCE, attributes, [known(array)], truth)


@SETTINGS
@given(data=st.data())
def test_concatenation(data):
    shape = data.draw(st.lists(small, min_size=1, max_size=3))
    axis = data.draw(st.integers(0, len(shape) - 1))
    arrays = []
    for _ in range(data.draw(st.integers(1, 3))):
        shape[axis] = data.draw(small)
        arrays.append(data.draw(integers(tuple(shape))))
    truth = np.concatenate(arrays, axis)
    inputs = [known(array) for array in arrays]
    assert_sound(data, trt.LayerType.CONCATENATION, {"axis": axis}, inputs, truth)


@SETTINGS
@given(data=st.data(), array=shapes.flatmap(integers))
def test_shape(data, array):
    truth = np.array(array.shape, np.int64)
    assert_sound(data, trt.LayerType.SHAPE, {}, [known(array)], truth)


@SETTINGS
@given(data=st.data(), array=shapes.flatmap(integers), dynamic=st.booleans(), placeholder=st.booleans())
def test_shuffle(data, array, dynamic, placeholder):
    first = data.draw(st.permutations(range(array.ndim)))
    moved = array.transpose(first)
    # Factors of the volume in any order, with some lengths copied and at most one inferred.
    target = data.draw(st.permutations(moved.shape))
    if data.draw(st.booleans()):
        target = [moved.size, 1] if data.draw(st.booleans()) else [1, *moved.shape]
    reshaped = moved.reshape(target)
    written = list(target)
    if placeholder:
        for axis, length in enumerate(target):
            if axis < moved.ndim and moved.shape[axis] == length and data.draw(st.booleans()):
                written[axis] = 0
    others = [length for length in written if length != 0]
    if written and moved.size and data.draw(st.booleans()):
        written[data.draw(st.integers(0, len(written) - 1))] = -1
    second = data.draw(st.permutations(range(reshaped.ndim)))
    attributes = {
        "first_transpose": tuple(first),
        "reshape_dims": None if dynamic else tuple(written),
        "second_transpose": tuple(second),
        "zero_is_placeholder": placeholder,
    }
    truth = reshaped.transpose(second)
    if placeholder and (0 in others or 0 in target):
        return  # 0 would copy a length instead
    inputs = [known(array)] + ([vector(written)] if dynamic else [])
    assert_sound(data, trt.LayerType.SHUFFLE, attributes, inputs, truth, vectors={1})


@pytest.mark.parametrize("mode", list(trt.SampleMode), ids=str)
@SETTINGS
@given(data=st.data(), dynamic=st.booleans())
def test_slice(mode, data, dynamic):
    lowest = 1 if mode not in (trt.SampleMode.STRICT_BOUNDS, trt.SampleMode.FILL) else 0
    shape = data.draw(st.lists(st.integers(lowest, 4), max_size=3).map(tuple))
    array = data.draw(integers(shape))
    start, size, stride, positions = [], [], [], []
    for length in shape:
        sizes, strides, starts = st.integers(0, 4), st.integers(-2, 2), st.integers(-7, 7)
        if mode == trt.SampleMode.STRICT_BOUNDS:
            step, first = data.draw(strides), data.draw(st.integers(0, max(length - 1, 0)))
            room = 4 if step == 0 else (length - 1 - first) // step + 1 if step > 0 else first // -step + 1
            count = data.draw(st.integers(0, max(room, 0) if length else 0))
        else:
            step, first, count = data.draw(strides), data.draw(starts), data.draw(sizes)
        start.append(first)
        size.append(count)
        stride.append(step)
        positions.append([first + step * number for number in range(count)])
    truth = np.array([_sample(array, place, mode) for place in _product(positions)], np.int64).reshape(size)
    attributes = {
        "start": tuple(start),
        "shape": tuple(size),
        "stride": tuple(stride),
        "mode": mode,
        "axes": None,
    }
    inputs = [known(array)]
    if dynamic:
        inputs += [vector(start), vector(size), vector(stride)]
        attributes |= {"start": (), "shape": (), "stride": ()}
    assert_sound(
        data, trt.LayerType.SLICE, attributes, inputs, truth, vectors={1, 2, 3}, exact_value=array.size > 0
    )


def _product(positions):
    places = [()]
    for choices in positions:
        places = [(*place, choice) for place in places for choice in choices]
    return places


def _sample(array, place, mode):
    """One element, read the slow way: out of bounds by numpy's own padding."""
    padding = {trt.SampleMode.WRAP: "wrap", trt.SampleMode.CLAMP: "edge", trt.SampleMode.REFLECT: "reflect"}
    if mode in padding:
        far = 20
        return (
            np.pad(array, far, mode=padding[mode])[tuple(one + far for one in place)] if place else array[()]
        )
    inside = all(0 <= one < length for one, length in zip(place, array.shape, strict=True))
    return array[place] if inside else 0


@SETTINGS
@given(data=st.data())
def test_gather_default(data):
    array = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(integers))
    axis = data.draw(st.integers(0, array.ndim - 1))
    indices = data.draw(
        st.lists(small, max_size=2).map(tuple).flatmap(lambda s: integers(s, 0, array.shape[axis] - 1))
    )
    attributes = {"axis": axis, "num_elementwise_dims": 0, "mode": trt.GatherMode.DEFAULT}
    truth = np.take(array, indices, axis)
    assert_sound(data, trt.LayerType.GATHER, attributes, [known(array), known(indices)], truth)


@SETTINGS
@given(data=st.data())
def test_gather_default_with_an_elementwise_dimension(data):
    array = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3).flatmap(integers))
    axis = data.draw(st.integers(1, array.ndim - 1))
    rest = data.draw(st.lists(small, max_size=2))
    indices = data.draw(integers((array.shape[0], *rest), 0, array.shape[axis] - 1))
    attributes = {"axis": axis, "num_elementwise_dims": 1, "mode": trt.GatherMode.DEFAULT}
    truth = np.stack([np.take(row, at, axis - 1) for row, at in zip(array, indices, strict=True)])
    assert_sound(data, trt.LayerType.GATHER, attributes, [known(array), known(indices)], truth)


@SETTINGS
@given(data=st.data())
def test_gather_elements(data):
    array = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).flatmap(integers))
    axis = data.draw(st.integers(0, array.ndim - 1))
    shape = list(array.shape)
    shape[axis] = data.draw(small)
    indices = data.draw(integers(tuple(shape), 0, array.shape[axis] - 1))
    attributes = {"axis": axis, "num_elementwise_dims": 0, "mode": trt.GatherMode.ELEMENT}
    truth = np.take_along_axis(array, indices, axis)
    assert_sound(data, trt.LayerType.GATHER, attributes, [known(array), known(indices)], truth)


@SETTINGS
@given(data=st.data())
def test_gather_nd(data):
    array = data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3).flatmap(integers))
    leading = data.draw(st.integers(0, array.ndim - 1))
    depth = data.draw(st.integers(1, array.ndim - leading))
    middle = data.draw(st.lists(small, max_size=1))
    batch = array.shape[:leading]
    columns = [
        data.draw(integers((*batch, *middle), 0, array.shape[leading + number] - 1))
        for number in range(depth)
    ]
    indices = np.stack(columns, -1)
    truth = np.empty((*batch, *middle, *array.shape[leading + depth :]), np.int64)
    for place in np.ndindex(*batch, *middle):
        truth[place] = array[(*place[:leading], *indices[place])]
    attributes = {"axis": 0, "num_elementwise_dims": leading, "mode": trt.GatherMode.ND}
    inputs = [known(array), known(indices)]
    assert_sound(data, trt.LayerType.GATHER, attributes, inputs, truth, vectors={1})


@SETTINGS
@given(data=st.data(), shape=shapes, start=st.integers(-5, 5))
def test_fill(data, shape, start):
    delta = data.draw(st.lists(st.integers(-3, 3), min_size=len(shape), max_size=len(shape)))
    truth = np.full(shape, start, np.int64)
    for axis, step in enumerate(delta):
        truth = truth + step * np.arange(shape[axis]).reshape(
            [-1 if axis == one else 1 for one in range(len(shape))]
        )
    attributes = {
        "shape": (),
        "operation": trt.FillOperation.LINSPACE,
        "to_type": trt.int64,
        "alpha": 0.0,
        "beta": 1.0,
    }
    inputs = [vector(shape), known(np.array(start)), vector(delta)]
    assert_sound(data, trt.LayerType.FILL, attributes, inputs, truth.reshape(shape), vectors={0, 1, 2})


@SETTINGS
@given(data=st.data(), op0=st.sampled_from(["NONE", "TRANSPOSE"]), op1=st.sampled_from(["NONE", "TRANSPOSE"]))
def test_matrix_multiply(data, op0, op1):
    lead, m, k, n = data.draw(shapes), *(data.draw(small) for _ in range(3))
    leads = [tuple(data.draw(st.sampled_from([length, 1])) for length in lead) for _ in range(2)]
    a = np.zeros((*leads[0], *((m, k) if op0 == "NONE" else (k, m))), np.float32)
    b = np.zeros((*leads[1], *((k, n) if op1 == "NONE" else (n, k))), np.float32)
    truth = (a if op0 == "NONE" else a.swapaxes(-1, -2)) @ (b if op1 == "NONE" else b.swapaxes(-1, -2))
    attributes = {
        "op0": trt.MatrixOperation.__members__[op0],
        "op1": trt.MatrixOperation.__members__[op1],
    }
    inputs = [Known(trt.float32, a.shape), Known(trt.float32, b.shape)]
    assert_sound(data, trt.LayerType.MATRIX_MULTIPLY, attributes, inputs, truth, exact_value=False)


def test_the_properties_can_fail():
    with pytest.raises(AssertionError):
        assert_true_of(known(np.array([1, 2])), np.array([1, 3]))
    with pytest.raises(AssertionError):
        assert_true_of(Known(trt.int64, (3,)), np.array([1, 3]))
    with pytest.raises(RuleError):
        infer(trt.LayerType.SHAPE, {}, [None], True)
