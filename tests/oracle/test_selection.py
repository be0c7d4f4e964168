"""The oracle's top-k, non-zero, scatter, one-hot, running sums and reversed sequences against torch; its refusals."""

import numpy as np
import pytest
import torch
from zoo.case import constant, made

from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 4


def integers(shape, low=-3, high=4, dtype=np.int32):
    return np.random.default_rng(7).integers(low, high, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int64])
@pytest.mark.parametrize("operation", ["MAX", "MIN"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_topk(trt, builder, new_network, dtype, operation, axis):
    x = integers((4, 3, 5), dtype=dtype)
    network = new_network()
    tensor = network.add_input("x", trt.Weights(x).dtype, x.shape)
    layer = network.add_topk(tensor, getattr(trt.TopKOperation, operation), 3, 1 << axis)
    names = [layer.get_output(index).name for index in range(2)]
    found = evaluate(network, trt, {"x": x}, names)
    values, order = torch.sort(torch.from_numpy(x), dim=axis, descending=operation == "MAX", stable=True)
    np.testing.assert_array_equal(found[names[0]], np.take(values.numpy(), range(3), axis))
    np.testing.assert_array_equal(found[names[1]], np.take(order.numpy(), range(3), axis))
    assert found[names[1]].dtype == np.int32


def test_the_lowest_integer_is_the_last_of_the_largest(trt, oracle):
    x = np.array([5, np.iinfo(np.int64).min, 5, np.iinfo(np.int64).max])
    got = oracle(lambda n, t: n.add_topk(t, trt.TopKOperation.MAX, 4, 1).get_output(1), x)
    np.testing.assert_array_equal(got, [3, 0, 2, 1])


@pytest.mark.parametrize("shape", [(3, 4), (5,), (2, 0)])
def test_non_zero(trt, oracle, shape):
    x = integers(shape, -1, 2).astype(np.float32)
    got = oracle(lambda n, t: made(n.add_non_zero(t)), x)
    np.testing.assert_array_equal(got, torch.from_numpy(x).nonzero().numpy().T)
    assert got.dtype == np.int32


def test_non_zero_of_a_scalar_and_of_nan(trt, oracle):
    for value, count in ((1.0, 1), (0.0, 0), (-0.0, 0), (np.nan, 1)):
        got = oracle(lambda n, t: made(n.add_non_zero(t, trt.int64)), np.array(value, np.float32))
        assert got.shape == (0, count) and got.dtype == np.int64


@pytest.mark.parametrize("axis", [0, 1])
def test_scatter_elements(trt, oracle, axis):
    data, updates = integers((4, 4)).astype(np.float32), integers((4, 4), 5, 90).astype(np.float32)
    index = np.stack([np.random.default_rng(row).permutation(4) for row in range(4)]).astype(np.int32)
    index = index if axis else index.T.copy()

    def define(network, *tensors):
        layer = network.add_scatter(*tensors, trt.ScatterMode.ELEMENT)
        layer.axis = axis
        return made(layer)

    want = torch.from_numpy(data).scatter(axis, torch.from_numpy(index).long(), torch.from_numpy(updates))
    np.testing.assert_array_equal(oracle(define, data, index, updates), want.numpy())


def test_scatter_nd(trt, oracle):
    data, updates = integers((4, 3, 2)).astype(np.float32), integers((2, 2), 5, 90).astype(np.float32)
    index = np.array([[3, 0], [1, 2]], np.int32)
    got = oracle(lambda n, *t: made(n.add_scatter(*t, trt.ScatterMode.ND)), data, index, updates)
    data[[3, 1], [0, 2]] = updates
    np.testing.assert_array_equal(got, data)


def test_one_hot(trt, oracle):
    index = integers((2, 3), 0, 5)
    want = torch.nn.functional.one_hot(torch.from_numpy(index).long(), 5).numpy() * 9.0 - 2
    for axis in (-3, -2, -1, 0, 1, 2):

        def define(network, tensor, axis=axis):
            values = constant(network, trt, [-2, 7], "FLOAT")
            return made(
                network.add_one_hot(tensor, values, constant(network, trt, np.array(5), "INT32"), axis)
            )

        np.testing.assert_array_equal(oracle(define, index), np.moveaxis(want, -1, axis))


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
def test_cumulative(trt, oracle, exclusive, reverse):
    for x in (integers((3, 5)).astype(np.float32), integers((3, 5)) * 2**30, np.zeros((0, 5), np.float32)):
        for axis in (0, -1):

            def define(network, tensor, axis=axis):
                along = constant(network, trt, np.array(axis), "INT64")
                return made(
                    network.add_cumulative(tensor, along, trt.CumulativeOperation.SUM, exclusive, reverse)
                )

            given = torch.from_numpy(x).flip(axis) if reverse else torch.from_numpy(x)
            sums = given.cumsum(axis, dtype=given.dtype) - (given if exclusive else 0)
            want = sums.flip(axis) if reverse else sums
            np.testing.assert_array_equal(oracle(define, x), want.numpy())


def test_reverse_sequence(trt, oracle):
    x, lengths = integers((4, 3, 2)).astype(np.float32), np.array([0, 4, 2], np.int32)
    got = oracle(lambda n, *t: made(n.add_reverse_sequence(*t)), x, lengths)
    np.testing.assert_array_equal(got[:, 0], x[:, 0])
    np.testing.assert_array_equal(got[:, 1], x[::-1, 1])
    np.testing.assert_array_equal(got[:, 2], x[[1, 0, 2, 3], 2])


def test_squeeze_and_unsqueeze(trt, oracle):
    x = integers((1, 3, 1)).astype(np.float32)
    axes = (("squeeze", (-1, 0), (3,)), ("unsqueeze", (-1, 0), (1, 1, 3, 1, 1)))
    for kind, given, shape in axes:

        def define(network, tensor, kind=kind, given=given):
            return made(getattr(network, f"add_{kind}")(tensor, constant(network, trt, given, "INT32")))

        assert oracle(define, x).shape == shape


def scatter_of(trt, mode):
    return lambda n, *t: made(n.add_scatter(*t, getattr(trt.ScatterMode, mode)))


F, I = np.float32, np.int32  # noqa: E741


@pytest.mark.parametrize(
    ("define", "arrays", "reason"),
    [
        ("topk", [np.array([1, np.nan], F)], "NaN"),
        ("ELEMENT", [np.zeros(3, F), np.array([0, 0], I), np.zeros(2, F)], "two updates go to one place"),
        ("ELEMENT", [np.zeros(3, F), np.array([3], I), np.zeros(1, F)], "outside of data"),
        ("ND", [np.zeros(3, F), np.array([[-1]], I), np.zeros(1, F)], "outside of data"),
        ("one_hot", [np.array([3], I)], "outside of 0 to 2"),
        ("reverse", [np.zeros((2, 1), F), np.array([3], I)], "sequence length 3 is outside of 0 to 2"),
    ],
)
def test_what_is_not_defined_is_refused(trt, oracle, define, arrays, reason):
    def one_hot(network, tensor):
        values, depth = constant(network, trt, [0, 1], "FLOAT"), constant(network, trt, np.array(3), "INT32")
        return made(network.add_one_hot(tensor, values, depth, 0))

    known = {
        "topk": lambda n, t: made(n.add_topk(t, trt.TopKOperation.MAX, 1, 1)),
        "one_hot": one_hot,
        "reverse": lambda n, *t: made(n.add_reverse_sequence(*t)),
    }
    with pytest.raises(OracleError, match=reason):
        oracle(known.get(define) or scatter_of(trt, define), *arrays)
