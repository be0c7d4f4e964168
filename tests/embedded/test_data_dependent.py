"""Lengths that only a run shows: from a layer through all that follow it, to the output allocator."""

import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import examples
from tiny_plans import Log, config_with, context_of, strongly_typed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram

BUDGET_S = 6
SIZES = {"x": ((0, 4), (3, 4), (6, 4))}


@pytest.fixture
def log():
    return Log()


class Allocator(trt.IOutputAllocator):
    """Fresh memory for every run; remembers what it was asked and told."""

    def __init__(self):
        super().__init__()
        self.asked, self.told, self.room = [], None, None

    def reallocate_output_async(self, tensor_name, memory, size, alignment, stream):
        self.asked.append((tensor_name, memory, size, stream))
        self.room = np.full(size, 0xAA, np.uint8)
        return self.room.ctypes.data

    def notify_shape(self, tensor_name, shape):
        self.told = tuple(shape)

    def array(self, dtype):
        return self.room[: int(np.prod(self.told)) * np.dtype(dtype).itemsize].view(dtype).reshape(self.told)


def constant(network, values, dtype=np.int64):
    array = np.asarray(values, dtype)
    return network.add_constant(array.shape, array).get_output(0)


def mark(network, tensor, name):
    tensor.name = name
    network.mark_output(tensor)


def positives(network):
    """x [-1, 4] -> "picked" [-1], its positive elements, and "sum" [], whose shape is no matter of data."""
    x = network.add_input("x", trt.float32, (-1, 4))
    zero = constant(network, [[0]], np.float32)
    mask = network.add_elementwise(x, zero, trt.ElementWiseOperation.GREATER).get_output(0)
    places = network.add_shuffle(network.add_non_zero(mask).get_output(0))
    places.second_transpose = (1, 0)
    picked = network.add_gather_v2(x, places.get_output(0), trt.GatherMode.ND).get_output(0)
    mark(network, picked, "picked")
    mark(network, network.add_reduce(x, trt.ReduceOperation.SUM, 3, False).get_output(0), "sum")
    return picked


def built(define, log, shapes=None, values=None):
    builder = trt.Builder(log)
    network = strongly_typed(builder)
    define(network)
    config = config_with(builder, shapes, values) if shapes or values else builder.create_builder_config()
    return builder.build_serialized_network(network, config)


def numbers(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


def give(context, x):
    assert context.set_input_shape("x", x.shape) and context.set_tensor_address("x", x.ctypes.data)


# Through the output allocator


def test_an_allocator_takes_what_has_no_length_before_the_run(log):
    context = context_of(built(positives, log, SIZES), log)
    picked, total = Allocator(), np.zeros(1, np.float32)
    context.set_output_allocator("picked", picked)
    context.set_tensor_address("sum", total.ctypes.data)
    for rows in (3, 6, 0, 3):
        x = numbers(rows)
        give(context, x)
        assert tuple(context.get_tensor_shape("picked")) == (-1,)
        assert tuple(context.get_tensor_strides("picked")) == (1,)
        assert tuple(context.get_tensor_shape("sum")) == ()
        assert context.execute_async_v3(5), log.said
        np.testing.assert_array_equal(picked.array(np.float32), x[x > 0])
        assert abs(total[0] - x.sum(dtype=np.float64)) < 1e-5
        count = int((x > 0).sum())
        assert picked.told == (count,) and picked.asked[-1] == ("picked", 0, max(4 * count, 1), 5)
        # Known to the allocator, and not to the context, whose next run may have another length.
        assert tuple(context.get_tensor_shape("picked")) == (-1,)
    assert len(picked.asked) == 4 and not log.said


def test_the_same_shape_may_have_another_length_at_every_run(log):
    context = context_of(built(positives, log, SIZES), log)
    x, allocator = numbers(3), Allocator()
    give(context, x)
    for name in ("picked", "sum"):
        context.set_output_allocator(name, allocator if name == "picked" else Allocator())
    for threshold in (0, 1, 9, -9):
        x[:] = numbers(3) - threshold
        assert context.execute_async_v3(0)
        np.testing.assert_array_equal(allocator.array(np.float32), x[x > 0])


def test_two_contexts_of_one_engine_do_not_mix_their_lengths(log):
    engine = trt.Runtime(log).deserialize_cuda_engine(built(positives, log, SIZES))
    pairs = []
    for rows in (2, 5):
        context, allocator, x = engine.create_execution_context(), Allocator(), numbers(rows, rows)
        give(context, x)
        context.set_output_allocator("picked", allocator)
        context.set_output_allocator("sum", Allocator())
        pairs.append((context, allocator, x))
    for _ in range(2):
        assert all(context.execute_async_v3(0) for context, _, _ in pairs)
        for _, allocator, x in pairs:
            np.testing.assert_array_equal(allocator.array(np.float32), x[x > 0])


def test_without_an_allocator_the_output_is_named(log):
    context = context_of(built(positives, log, SIZES), log)
    x, room = numbers(3), np.full(64, 7, np.float32)
    give(context, x)
    for name in ("picked", "sum"):
        assert context.set_tensor_address(name, room.ctypes.data)
    assert not context.execute_async_v3(0)
    assert "'picked' depends on data; set an output allocator for it" in log.last
    assert (room == 7).all()
    assert not context.execute_v2([x.ctypes.data, room.ctypes.data, room.ctypes.data])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda *_: 0, "gave no memory for"),
        (lambda *_: None, "gave no memory for"),
        (lambda *_: 2**64, "gave no memory for"),
        (lambda *_: "here", "failed"),
        (lambda *_: 1 // 0, "failed"),
    ],
)
def test_an_allocator_that_fails(log, answer, reason):
    context = context_of(built(positives, log, SIZES), log)
    bad = Allocator()
    bad.reallocate_output_async = answer
    give(context, numbers(3))
    context.set_output_allocator("sum", Allocator())
    context.set_output_allocator("picked", bad)
    assert not context.execute_async_v3(0)
    assert f"the output allocator of 'picked' {reason}" in log.last
    good = Allocator()
    context.set_output_allocator("picked", good)
    assert context.execute_async_v3(0) and good.told is not None


def test_the_largest_size_of_an_output(log):
    def define(network):
        picked = positives(network)
        mark(network, network.add_non_zero(picked, trt.int64).get_output(0), "again")

    context = context_of(built(define, log, SIZES), log)
    assert context.get_max_output_size("picked") == 6 * 4 * 4
    assert context.get_max_output_size("again") == 6 * 4 * 8
    assert context.get_max_output_size("sum") == 4


# What follows from such a length


def test_its_shape_is_a_value_like_any_other(log):
    """The count as an output, and as a dimension of a fill, a slice and a top-k."""

    def define(network):
        picked = positives(network)
        count = network.add_shape(picked).get_output(0)
        mark(network, count, "count")
        half = network.add_elementwise(
            count, constant(network, [2]), trt.ElementWiseOperation.DIV
        ).get_output(0)
        start = network.add_slice(picked, (0,), (1,), (1,))
        start.set_input(2, half)
        mark(network, start.get_output(0), "start")
        scalar = network.add_shuffle(network.add_cast(count, trt.int32).get_output(0))
        scalar.reshape_dims = ()
        order = network.add_topk(picked, trt.TopKOperation.MIN, 1, 1)
        order.set_input(1, scalar.get_output(0))
        mark(network, order.get_output(0), "sorted")
        mark(network, order.get_output(1), "order")

    context = context_of(built(define, log, SIZES), log)
    types = {"picked": np.float32, "sum": np.float32, "count": np.int64, "start": np.float32}
    types |= {"sorted": np.float32, "order": np.int32}
    allocators = {name: Allocator() for name in types}
    for name, allocator in allocators.items():
        context.set_output_allocator(name, allocator)
    for rows in (6, 1):
        x = np.abs(numbers(rows)) * np.tile(np.float32([1, -1, 1, 1]), (rows, 1))
        give(context, x)
        assert tuple(context.get_tensor_shape("count")) == (1,)
        assert context.execute_async_v3(0), log.said
        got = {name: allocators[name].array(dtype) for name, dtype in types.items()}
        want = x[x > 0]
        np.testing.assert_array_equal(got["count"], [len(want)])
        np.testing.assert_array_equal(got["start"], want[: len(want) // 2])
        np.testing.assert_array_equal(got["order"], want.argsort(kind="stable"))
        np.testing.assert_array_equal(got["sorted"], np.sort(want))


def test_a_length_that_does_not_fit_fails_the_run(log):
    """Sums of what was picked and something of a fixed length: only the run shows whether they fit."""

    def define(network):
        picked = positives(network)
        three = constant(network, [1, 2, 3], np.float32)
        total = network.add_elementwise(picked, three, trt.ElementWiseOperation.SUM).get_output(0)
        assert tuple(total.shape) == (3,)
        mark(network, total, "total")

    context = context_of(built(define, log, SIZES), log)
    for name in ("picked", "sum", "total"):
        context.set_output_allocator(name, Allocator())
    x = np.full((1, 4), 2, np.float32)
    give(context, x)
    assert not context.execute_async_v3(0) and "the run failed" in log.last
    x[0, 0] = -1
    assert context.execute_async_v3(0)
    np.testing.assert_array_equal(context.get_output_allocator("total").array(np.float32), [3, 4, 5])


# What stays refused: values that are data


def _positions_as_dimensions(network, x):
    found = network.add_non_zero(x).get_output(0)
    flat = network.add_shuffle(found)
    flat.reshape_dims = (4,)
    return network.add_slice(flat.get_output(0), (0,), (2,), (1,)).get_output(0)


def _computed_from_data(network, x):
    return network.add_cast(x, trt.int32).get_output(0)


def _count_by_a_sum(network, x):
    mask = network.add_cast(network.add_cast(x, trt.bool).get_output(0), trt.float32).get_output(0)
    count = network.add_reduce(mask, trt.ReduceOperation.SUM, 1, True).get_output(0)
    scaled = network.add_softmax(count).get_output(0)
    counts = network.add_concatenation([network.add_cast(scaled, trt.int32).get_output(0)] * 2)
    return counts.get_output(0)


def _power_of_floats(network, x):
    lengths = network.add_cast(network.add_shape(x).get_output(0), trt.float32).get_output(0)
    power = network.add_elementwise(lengths, lengths, trt.ElementWiseOperation.POW).get_output(0)
    counts = network.add_concatenation([network.add_cast(power, trt.int32).get_output(0)] * 2)
    return counts.get_output(0)


@pytest.mark.parametrize(
    "dims", [_positions_as_dimensions, _computed_from_data, _count_by_a_sum, _power_of_floats]
)
def test_dimensions_that_are_data_are_refused_at_the_build(log, dims):
    def define(network):
        x = network.add_input("x", trt.float32, (2,))
        computed = network.add_softmax(x).get_output(0)
        fill = network.add_fill((), trt.FillOperation.LINSPACE, trt.float32)
        vector = dims(network, computed)
        for number, tensor in enumerate(
            (vector, constant(network, 0, np.float32), constant(network, [1, 1], np.float32))
        ):
            fill.set_input(number, tensor)
        fill.name = "made"
        mark(network, fill.get_output(0), "y")

    assert built(define, log) is None
    assert "made: input 0 decides a shape, but it depends on data" in log.last


def test_a_mixture_of_late_lengths_and_data_is_data(log):
    def define(network):
        picked = positives(network)
        count = network.add_cast(network.add_shape(picked).get_output(0), trt.int32).get_output(0)
        some = network.add_softmax(network.add_gather(picked, constant(network, [0]), 0).get_output(0))
        data = network.add_cast(some.get_output(0), trt.int32)
        both = network.add_elementwise(count, data.get_output(0), trt.ElementWiseOperation.MIN).get_output(0)
        start = network.add_slice(picked, (0,), (1,), (1,))
        start.set_input(2, both)
        start.name = "cut"
        mark(network, start.get_output(0), "y")

    assert built(define, log, SIZES) is None
    assert "cut: input 2 decides a shape, but it depends on data" in log.last


# The shape program


def _late_network():
    network = strongly_typed(trt.Builder(Log()))
    picked = positives(network)
    count = network.add_shape(picked).get_output(0)
    pair = network.add_concatenation([count, constant(network, [1])]).get_output(0)
    column = network.add_shuffle(picked)
    column.set_input(1, pair)
    mark(network, column.get_output(0), "column")
    zero = constant(network, [0])
    scalar = network.add_squeeze(count, zero).get_output(0)
    again = network.add_unsqueeze(scalar, zero).get_output(0)
    double = network.add_elementwise(count, again, trt.ElementWiseOperation.SUM).get_output(0)
    fill = network.add_fill((0,), trt.FillOperation.LINSPACE, trt.int32)
    for number, one in enumerate((double, constant(network, 0, np.int32), constant(network, [1], np.int32))):
        fill.set_input(number, one)
    joined = network.add_concatenation([fill.get_output(0), constant(network, [7, 8], np.int32)])
    mark(network, joined.get_output(0), "joined")
    rows = network.add_slice(network.add_shape(column.get_output(0)).get_output(0), (1,), (1,), (1,))
    ones = network.add_fill((0,), trt.FillOperation.LINSPACE, trt.int32)
    for number, one in enumerate(
        (rows.get_output(0), constant(network, 0, np.int32), constant(network, [1], np.int32))
    ):
        ones.set_input(number, one)
    mark(network, ones.get_output(0), "ones")
    return network


NAMES = ["picked", "sum", "column", "joined", "ones"]
PROGRAM = ShapeProgram.of(_late_network(), NAMES)


def test_lengths_stay_open_only_where_data_decides_them():
    for program in (PROGRAM, ShapeProgram.from_json(json.loads(json.dumps(PROGRAM.to_json())))):
        shapes = program.run({"x": (3, 4)})
        assert shapes == {"picked": (-1,), "sum": (), "column": (-1, 1), "joined": (-1,), "ones": (1,)}
        most = program.run({"x": (3, 4)}, at_most=True)
        assert most == {"picked": (12,), "sum": (), "column": (12, 1), "joined": (26,), "ones": (1,)}
        with pytest.raises(RuleError, match="declared as"):
            program.run({"x": (3, 5)})


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**40),
    st.floats(),
    st.sampled_from(["NON_ZERO", "TOPK", "SCATTER", "ONE_HOT", "SQUEEZE", "SHAPE", "INT64", "FLOAT"]),
    st.lists(st.integers(-2, 9), max_size=4),
    st.fixed_dictionaries({"indices_type": st.sampled_from(["INT32", "FLOAT", 3])}),
)


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data())
def test_a_damaged_program_is_refused_or_runs_into_a_rule(data):
    damaged = copy.deepcopy(PROGRAM.to_json())
    for _ in range(data.draw(st.integers(1, 2))):
        step = data.draw(st.sampled_from(damaged["steps"]))
        key = data.draw(st.sampled_from(sorted(step)))
        step[key] = data.draw(JUNK)
    try:
        ShapeProgram.from_json(damaged).run({"x": (3, 4)})
    except ValueError:
        return


# Inputs whose values are known beforehand


def test_a_shape_input_that_its_profile_leaves_no_choice_is_known_before_any_address(log):
    def define(network):
        rows = network.add_input("rows", trt.int32, (1,))
        k = network.add_input("k", trt.int32, ())
        for number, size in enumerate((rows, rows)):
            fill = network.add_fill((0,), trt.FillOperation.LINSPACE, trt.int32)
            parts = (size, constant(network, 0, np.int32), constant(network, [1], np.int32))
            for index, tensor in enumerate(parts):
                fill.set_input(index, tensor)
            layer = network.add_topk(fill.get_output(0), trt.TopKOperation.MAX, 1, 1)
            if number:
                layer.set_input(1, k)
            mark(network, layer.get_output(0), f"y{number}")

    plan = built(define, log, values={"rows": ((5,), (5,), (5,)), "k": ((2,), (3,), (4,))})
    context = context_of(plan, log)
    assert context.engine.is_shape_inference_io("rows")
    assert context.infer_shapes() == ["k"]
    assert tuple(context.get_tensor_shape("y1")) == (-1,)
    k = np.array(4, np.int32)
    context.set_tensor_address("k", k.ctypes.data)
    assert context.infer_shapes() == []
    assert tuple(context.get_tensor_shape("y0")) == (1,) and tuple(context.get_tensor_shape("y1")) == (4,)
    k[()] = 2
    assert tuple(context.get_tensor_shape("y1")) == (2,)
    k[()] = 5
    assert tuple(context.get_tensor_shape("y1")) == (-1,) and "outside of what profile 0 allows" in log.last


def test_a_profile_of_one_value_alone_is_enough_for_all_shapes(log):
    def define(network):
        size = network.add_input("size", trt.int64, (2,))
        fill = network.add_fill((), trt.FillOperation.LINSPACE, trt.float32)
        parts = (size, constant(network, 0, np.float32), constant(network, [1, 1], np.float32))
        for index, tensor in enumerate(parts):
            fill.set_input(index, tensor)
        mark(network, fill.get_output(0), "y")

    context = context_of(built(define, log, values={"size": ((2, 3), (2, 3), (2, 3))}), log)
    assert context.infer_shapes() == [] and tuple(context.get_tensor_shape("y")) == (2, 3)
    assert context.get_max_output_size("y") == 24
    size, y = np.array([2, 3]), np.zeros((2, 3), np.float32)
    context.set_tensor_address("y", y.ctypes.data)
    assert not context.execute_async_v3(0) and "the address of 'size' is not set" in log.last
    context.set_tensor_address("size", size.ctypes.data)
    assert context.execute_async_v3(0)
    np.testing.assert_array_equal(y, [[0, 1, 2], [1, 2, 3]])
