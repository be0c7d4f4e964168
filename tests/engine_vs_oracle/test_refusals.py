"""Inputs that a network does not take: engine and oracle both refuse them, rather than compute something else."""

import numpy as np
import pytest
from zoo.case import Case, constant, made, mark
from zoo.engine import EngineFailedError, network_and_engine, run

from trtllm_ext.oracle import OracleError, evaluate

BUDGET_S = 15


@pytest.fixture(scope="module")
def trt():
    import trtllm_ext.embedded

    return trtllm_ext.embedded


def _short_slice(network, trt):
    x = network.add_input("x", trt.float32, (-1,))
    two = made(network.add_slice(x, (0,), (2,), (1,)))
    mark(network, made(network.add_elementwise(two, constant(network, trt, [10, 20], "FLOAT"), _sum(trt))))


def _short_rows_summed(network, trt):
    x = network.add_input("x", trt.float32, (-1, 4))
    rows = made(network.add_slice(x, (0, 0), (2, 4), (1, 1)))
    mark(network, made(network.add_reduce(rows, trt.ReduceOperation.SUM, 1, False)))


def _scale_of_other_length(network, trt):
    x = network.add_input("x", trt.float32, (4, 1))
    scale = network.add_input("scale", trt.float32, (1, -1))
    bias = constant(network, trt, [[0.0]], "FLOAT")
    normed = made(network.add_normalization(x, scale, bias, 1))
    mark(network, made(network.add_reduce(normed, trt.ReduceOperation.SUM, 2, False)))


def _started_by_input(network, trt):
    x = network.add_input("x", trt.float32, (16,))
    layer = network.add_slice(x, (0,), (4,), (1,))
    layer.set_input(1, network.add_input("s", trt.int32, (1,)))
    mark(network, made(layer))


def _gathered(network, trt):
    x = network.add_input("x", trt.float32, (4, 3))
    mark(network, made(network.add_gather(x, network.add_input("i", trt.int32, (-1,)), 0)))


def _sum(trt):
    return trt.ElementWiseOperation.SUM


def _floats(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def _at(*numbers):
    return np.array(numbers, np.int32)


STARTS = [{"x": _floats(16), "s": _at(start)} for start in (0, -20, 12, 20)]
CASES = {
    "short slice": (_short_slice, [{"x": _floats(3)}, {"x": _floats(1)}], [1], ()),
    "short rows, summed": (_short_rows_summed, [{"x": _floats(3, 4)}, {"x": _floats(1, 4)}], [1], ()),
    "scale of another length": (
        _scale_of_other_length,
        [{"x": _floats(4, 1), "scale": _floats(1, length)} for length in (1, 8)],
        [1],
        (),
    ),
    "start below or above": (
        _started_by_input,
        [*STARTS, *({"x": _floats(16), "s": _at(start)} for start in (-8, 13))],
        [1, 3, 4, 5],
        ("s",),
    ),
    "index beyond the end": (
        _gathered,
        [{"x": _floats(4, 3), "i": _at(*indices)} for indices in ((0, 3), (1, 4), (-5, 0), (-4, -1))],
        [1, 2],
        (),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_engine_and_oracle_refuse_the_same(trt, name):
    define, feeds, bad, shape_inputs = CASES[name]
    case = Case(name=name, define=define, feeds=lambda: feeds, shape_inputs=frozenset(shape_inputs))
    network, engine = network_and_engine(case, trt, feeds)
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        assert (
            engine.is_shape_inference_io(tensor.name)
            == tensor.is_shape_tensor
            == (tensor.name in shape_inputs)
        )
    for number, feed in enumerate(feeds):
        if number in bad:
            with pytest.raises(OracleError):
                evaluate(network, trt, feed)
            with pytest.raises(EngineFailedError):
                run(engine, trt, feed)
        else:
            np.testing.assert_allclose(run(engine, trt, feed)["y"], evaluate(network, trt, feed)["y"])


def test_values_of_a_plain_input_have_no_range(trt):
    feeds = [{"x": _floats(3)}]
    case = Case(name="plain", define=_short_slice, feeds=lambda: feeds, shape_inputs=frozenset({"x"}))
    with pytest.raises(EngineFailedError, match="values of 'x', on whose values no shape depends"):
        network_and_engine(case, trt, feeds)
