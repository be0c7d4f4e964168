"""The oracle's slices and gathers against plain loops over coordinates."""

import itertools

import numpy as np
import pytest
from zoo.case import constant, made, rng, sample

from trtllm_ext.oracle import OracleError

BUDGET_S = 10


def reflected(x, length):
    """Walk from 0 to x, turning round at either end."""
    position, step = 0, 1
    for _ in range(abs(x)):
        if length == 1:
            return 0
        if not 0 <= position + step < length:
            step = -step
        position += step
    return position


def coordinate(mode, x, length):
    if 0 <= x < length:
        return x
    return {
        "CLAMP": lambda: min(max(x, 0), length - 1),
        "WRAP": lambda: x % length,
        "REFLECT": lambda: reflected(x, length),
        "FILL": lambda: None,
    }[mode]()


def sliced_by_hand(x, start, size, stride, mode, fill):
    out = np.full(size, fill, np.float64)
    for place in itertools.product(*map(range, size)):
        wanted = [y * s + o for y, s, o in zip(place, stride, start, strict=True)]
        found = [coordinate(mode, c, length) for c, length in zip(wanted, x.shape, strict=True)]
        if None not in found:
            out[place] = x[tuple(found)]
    return out


CASES = [
    ((0, 0), (5, 4), (1, 1)),
    ((1, 3), (2, 4), (2, -1)),
    ((-2, 1), (9, 3), (1, 2)),
    ((-7, -9), (17, 14), (1, 2)),
    ((12, 6), (9, 9), (-3, -1)),
    ((2, 0), (0, 3), (1, 0)),
]


@pytest.mark.parametrize("mode", ["FILL", "CLAMP", "WRAP", "REFLECT"])
@pytest.mark.parametrize(("start", "size", "stride"), CASES)
def test_slices_out_of_bounds(trt, oracle, mode, start, size, stride):
    x = sample("x", "FLOAT", (5, 4))

    def define(network, data):
        layer = network.add_slice(data, start, size, stride)
        layer.mode = getattr(trt.SampleMode, mode)
        if mode == "FILL":
            layer.set_input(4, constant(network, trt, np.array(2.5), "FLOAT"))
        return made(layer)

    np.testing.assert_array_equal(oracle(define, x), sliced_by_hand(x, start, size, stride, mode, 2.5))


def test_reflection_of_one_element_repeats_it(trt, oracle):
    def define(network, data):
        layer = network.add_slice(data, (-2,), (5,), (1,))
        layer.mode = trt.SampleMode.REFLECT
        return made(layer)

    assert oracle(define, np.array([3.0], np.float32)).tolist() == [3.0] * 5


def test_fill_is_zero_by_default(trt, oracle):
    def define(network, data):
        layer = network.add_slice(data, (-1,), (4,), (1,))
        layer.mode = trt.SampleMode.FILL
        return made(layer)

    assert oracle(define, np.array([3, 4], np.int32)).tolist() == [0, 3, 4, 0]


def test_the_documented_slice(trt, oracle):
    x = np.array([[0, 2, 4], [1, 3, 5]], np.int32)
    assert oracle(lambda n, t: made(n.add_slice(t, (1, 0), (1, 2), (1, 2))), x).tolist() == [[1, 5]]


@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)))
def test_parameters_come_from_inputs_where_set(trt, oracle, given):
    x = sample("x", "FLOAT", (6, 7))
    right, wrong = ((1, 2), (2, 3), (2, 1)), ((0, 0), (1, 1), (1, 1))

    def define(network, data):
        attributes = [w if dynamic else r for r, w, dynamic in zip(right, wrong, given, strict=True)]
        layer = network.add_slice(data, *attributes)
        for index, dynamic in enumerate(given):
            if dynamic:
                layer.set_input(index + 1, constant(network, trt, np.array(right[index]), "INT32"))
        return made(layer)

    np.testing.assert_array_equal(oracle(define, x), x[1:5:2, 2:5])


def test_strict_bounds_are_strict(trt, new_network):
    from trtllm_ext.oracle import evaluate

    network = new_network()
    x = network.add_input("x", trt.float32, (-1,))
    tensor = made(network.add_slice(x, (2,), (3,), (1,)))
    network.mark_output(tensor)
    assert evaluate(network, trt, {"x": np.arange(5, dtype=np.float32)})[tensor.name].tolist() == [2, 3, 4]
    with pytest.raises(OracleError, match="leave dimension 0 of length 4"):
        evaluate(network, trt, {"x": np.arange(4, dtype=np.float32)})


def gatherer(trt, mode, *, axis=0, leading=0):
    def define(network, data, indices):
        layer = network.add_gather_v2(data, indices, getattr(trt.GatherMode, mode))
        layer.axis = axis
        layer.num_elementwise_dims = leading
        return made(layer)

    return define


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("index_type", [np.int32, np.int64])
def test_default_gather(trt, oracle, axis, shape, index_type):
    x = sample("x", "FLOAT", (4, 5, 3))
    indices = rng("gather").integers(0, x.shape[axis], shape).astype(index_type)
    got = oracle(gatherer(trt, "DEFAULT", axis=axis), x, indices)
    np.testing.assert_array_equal(got, np.take(x, indices, axis=axis))


@pytest.mark.parametrize("beyond", [2, -3])
def test_gather_from_the_end_but_not_beyond(trt, oracle, beyond):
    x = np.array([1.0, 2.0], np.float32)
    assert oracle(gatherer(trt, "DEFAULT"), x, np.array([0, -1, -2], np.int32)).tolist() == [1, 2, 1]
    with pytest.raises(OracleError, match="leave a dimension of length 2"):
        oracle(gatherer(trt, "DEFAULT"), x, np.array([0, beyond], np.int32))


def test_gather_with_rows_together(trt, oracle):
    x = sample("x", "FLOAT", (3, 4, 2))
    indices = rng("rows").integers(0, 4, (3, 5)).astype(np.int32)
    got = oracle(gatherer(trt, "DEFAULT", axis=1, leading=1), x, indices)
    np.testing.assert_array_equal(got, np.stack([x[row][indices[row]] for row in range(3)]))


def test_gather_with_rows_together_along_the_last_axis(trt, oracle):
    x = sample("x", "FLOAT", (3, 4, 6))
    indices = rng("rows").integers(0, 6, (3, 5)).astype(np.int32)
    got = oracle(gatherer(trt, "DEFAULT", axis=2, leading=1), x, indices)
    np.testing.assert_array_equal(got, np.stack([x[row][:, indices[row]] for row in range(3)]))


@pytest.mark.parametrize(("axis", "shape"), [(0, (7, 4)), (1, (3, 2)), (1, (2, 6))])
def test_gather_elements(trt, oracle, axis, shape):
    x = sample("x", "FLOAT", (3, 4))
    indices = rng("elements").integers(0, x.shape[axis], shape).astype(np.int32)
    want = np.empty(shape)
    for place in np.ndindex(shape):
        source = list(place)
        source[axis] = indices[place]
        want[place] = x[tuple(source)]
    np.testing.assert_array_equal(oracle(gatherer(trt, "ELEMENT", axis=axis), x, indices), want)


@pytest.mark.parametrize(("depth", "leading"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (1, 2)])
def test_gather_nd(trt, oracle, depth, leading):
    x = sample("x", "FLOAT", (3, 4, 5))
    lead = x.shape[:leading]
    lengths = x.shape[leading : leading + depth]
    indices = rng("nd").integers(0, lengths, (*lead, 2, depth)).astype(np.int32)
    want = np.empty((*lead, 2, *x.shape[leading + depth :]))
    for place in np.ndindex((*lead, 2)):
        want[place] = x[place[:leading] + tuple(indices[place])]
    np.testing.assert_array_equal(oracle(gatherer(trt, "ND", leading=leading), x, indices), want)
