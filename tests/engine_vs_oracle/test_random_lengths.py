"""Random networks behind a length that only the run shows, against the oracle; no element, one, some, all are found."""

import numpy as np
import pytest
from sampling import thinned
from zoo.case import Case, constant, made, mark, rng
from zoo.comparing import difference
from zoo.engine import network_and_engine, run

from trtllm_ext.oracle import evaluate

BUDGET_S = 6
NETWORKS = 24


class Late:
    """A network in the making: `current` is float [n, width] with n late, `count` its length as an int64 vector."""

    def __init__(self, network, trt, seed):
        self.network, self.trt, self.rng = network, trt, np.random.default_rng(seed)
        self.marked = 0
        x = network.add_input("x", trt.float32, (-1, 3))
        rows = made(network.add_reduce(x, trt.ReduceOperation.MAX, 2, False))
        found = network.add_shuffle(made(network.add_non_zero(rows)))
        found.reshape_dims = (-1,)
        self.where = found.get_output(0)
        self.current = made(network.add_gather(x, self.where, 0))
        self.count = made(network.add_shape(self.where))

    def ints(self, *values):
        return constant(self.network, self.trt, list(values), "INT64")

    def vector(self, *parts):
        return made(self.network.add_concatenation(list(parts)))

    def width(self):
        return self.current.shape[1]

    def calculate(self, a, b, operation):
        return made(self.network.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation)))

    def ramp(self, *parts):
        layer = self.network.add_fill((), self.trt.FillOperation.LINSPACE, parts[1].dtype)
        for index, tensor in enumerate(parts):
            layer.set_input(index, tensor)
        return layer.get_output(0)

    # The steps; each leaves `current` and `count` as they are said to be.

    def add_ramp(self):
        start = constant(self.network, self.trt, np.array(0.5), "FLOAT")
        steps = constant(self.network, self.trt, [1.0, 2.0], "FLOAT")
        dims = self.vector(self.count, self.ints(self.width()))
        self.current = self.calculate(self.current, self.ramp(dims, start, steps), "SUM")

    def join(self):
        layer = self.network.add_concatenation([self.current, self.current])
        layer.axis = 0
        self.current, self.count = layer.get_output(0), self.calculate(self.count, self.ints(2), "PROD")

    def first_half(self):
        half = self.calculate(self.count, self.ints(2), "DIV")
        cut = self.network.add_slice(self.current, (0, 0), (0, 0), (1, 1))
        cut.set_input(2, self.vector(half, self.ints(self.width())))
        self.current, self.count = cut.get_output(0), half

    def fold(self):
        """[n, w] -> [n * w, 1] by a computed reshape."""
        total = self.calculate(self.count, self.ints(self.width()), "PROD")
        layer = self.network.add_shuffle(self.current)
        layer.set_input(1, self.vector(total, self.ints(1)))
        layer.zero_is_placeholder = False
        self.current, self.count = layer.get_output(0), total

    def accumulate(self):
        axis = constant(self.network, self.trt, np.array(int(self.rng.integers(-2, 2))), "INT32")
        flags = [bool(flag) for flag in self.rng.integers(0, 2, 2)]
        sums = self.network.add_cumulative(self.current, axis, self.trt.CumulativeOperation.SUM, *flags)
        self.current = made(sums)

    def turn(self):
        """The rows from the last to the first."""
        last = self.calculate(self.count, self.ints(1), "SUB")
        layer = self.network.add_slice(self.current, (0, 0), (0, 0), (-1, 1))
        layer.set_input(1, self.vector(last, self.ints(0)))
        layer.set_input(2, self.vector(self.count, self.ints(self.width())))
        layer.mode = self.trt.SampleMode.FILL
        self.current = layer.get_output(0)

    def stretch(self):
        """Every column twice, by a broadcast along a new dimension."""
        wide = made(self.network.add_unsqueeze(self.current, self.ints(-1)))
        ones = constant(self.network, self.trt, np.ones((1, 1, 2)), "FLOAT")
        layer = self.network.add_shuffle(self.calculate(wide, ones, "PROD"))
        layer.reshape_dims = (-1, 2 * self.width())
        self.current = layer.get_output(0)

    def smallest_column(self):
        layer = self.network.add_topk(self.current, self.trt.TopKOperation.MIN, 1, 2)
        self.current = made(layer)
        self.show(layer.get_output(1))

    def place(self):
        """Scatter what there is into ones."""
        one, zeros = (
            constant(self.network, self.trt, value, "FLOAT") for value in (np.array(1.0), [0.0, 0.0])
        )
        data = self.ramp(self.vector(self.count, self.ints(self.width())), one, zeros)
        order = self.ramp(self.count, constant(self.network, self.trt, np.array(0), "INT64"), self.ints(1))
        rows = made(self.network.add_unsqueeze(order, self.ints(1)))
        self.current = made(self.network.add_scatter(data, rows, self.current, self.trt.ScatterMode.ND))

    def show(self, tensor):
        mark(self.network, tensor, f"y{self.marked}")
        self.marked += 1


STEPS = (
    "add_ramp",
    "join",
    "first_half",
    "fold",
    "accumulate",
    "turn",
    "stretch",
    "smallest_column",
    "place",
)


def random_case(seed):
    def define(network, trt):
        late = Late(network, trt, seed)
        late.show(late.where)
        for _ in range(int(late.rng.integers(2, 6))):
            if late.width() <= 12:
                getattr(late, STEPS[late.rng.integers(len(STEPS))])()
        late.show(late.current)
        late.show(made(network.add_reduce(late.current, trt.ReduceOperation.SUM, 1, True)))
        late.show(made(network.add_shape(late.current)))

    def feeds():
        runs = []
        for rows, found in ((5, 2), (4, 4), (3, 0), (6, 1), (0, 0)):
            x = -rng("late", seed, rows).integers(1, 5, (rows, 3)).astype(np.float32)
            x[found:, 1] = 0
            runs.append({"x": x})
        return runs

    return Case(name=f"random-lengths-{seed}", define=define, feeds=feeds)


@pytest.fixture(scope="module")
def trt():
    import trtllm_ext.embedded

    return trtllm_ext.embedded


@pytest.mark.parametrize("seed", thinned(range(NETWORKS), every=3))
def test_random_networks_behind_a_late_length(trt, seed):
    case = random_case(seed)
    feeds = case.feeds()
    network, engine = network_and_engine(case, trt, feeds)
    context = engine.create_execution_context()
    for feed in (*feeds, feeds[0]):
        got, want = run(engine, trt, feed, context), evaluate(network, trt, feed)
        complaints = [difference(case, name, got[name], want[name]) for name in sorted(want)]
        assert not any(complaints), (feed, complaints)
