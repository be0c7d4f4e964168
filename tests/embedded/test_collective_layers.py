"""The layer that ranks compute together: shapes, types, places, and what is refused in which words."""

import numpy as np
import pytest
from ranks_bench import ALL_GATHER, ALL_REDUCE, NONE, REDUCE_SCATTER, SUM, RanksBench

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules.program import ShapeProgram

BUDGET_S = 3

C, R = trt.CollectiveOperation, trt.ReduceOperation


@pytest.mark.parametrize(
    ("operation", "reduce_op", "shape", "expected"),
    [
        (ALL_REDUCE, SUM, (-1, 3), (-1, 3)),
        (ALL_REDUCE, SUM, (5,), (5,)),
        (ALL_GATHER, NONE, (5, -1), (15, -1)),
        (ALL_GATHER, NONE, (-1, 2), (-1, 2)),
        (REDUCE_SCATTER, R.MAX, (6, 7), (2, 7)),
        (REDUCE_SCATTER, R.MAX, (0, 7), (0, 7)),
        (REDUCE_SCATTER, R.MAX, (-1, 7), (-1, 7)),
    ],
)
@pytest.mark.parametrize("dtype", [trt.float32, trt.float16, trt.bfloat16, trt.int32, trt.int64])
def test_shapes_and_types(operation, reduce_op, shape, expected, dtype):
    bench = RanksBench()
    layer = bench.network.add_dist_collective(
        bench.input("x", shape, dtype), operation, reduce_op, -1, [0, 1, 2]
    )
    assert type(layer) is trt.IDistCollectiveLayer
    assert layer.type == trt.LayerType.DIST_COLLECTIVE
    assert (tuple(layer.get_output(0).shape), layer.get_output(0).dtype) == (expected, dtype)
    assert (layer.dist_collective_op, layer.reduce_op, layer.groups) == (operation, reduce_op, (0, 1, 2))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            (C.BROADCAST, NONE, 0, [0, 1]),
            "BROADCAST is not supported by the embedded engine; ALL_GATHER and a slice",
        ),
        ((C.REDUCE, SUM, 0, [0, 1]), "REDUCE is not supported .* ALL_REDUCE gives the sum to the root"),
        ((C.GATHER, NONE, 0, [0, 1]), "GATHER is not supported"),
        ((C.SCATTER, NONE, 0, [0, 1]), "SCATTER is not supported"),
        ((C.ALL_TO_ALL, NONE, 0, [0, 1]), "ALL_TO_ALL is not supported"),
        ((ALL_REDUCE, SUM, -1, []), r"groups is empty; name the ranks of the group, such as \[0, 1\]"),
        ((ALL_REDUCE, SUM, -1, None), "groups is empty"),
        ((ALL_REDUCE, SUM, -1, [0, 2, 2]), r"groups=\[0, 2, 2\] names rank 2 twice"),
        ((ALL_REDUCE, SUM, -1, [0, -2]), "negative rank -2"),
        (
            (ALL_REDUCE, NONE, -1, [0, 1]),
            "ALL_REDUCE needs a reduce_op: SUM, PROD, MAX, MIN or AVG, not NONE",
        ),
        ((ALL_GATHER, SUM, -1, [0, 1]), "ALL_GATHER reduces nothing, but reduce_op is SUM"),
        ((REDUCE_SCATTER, SUM, -1, [0, 1, 2, 3]), "over 4 ranks, but it is 6 long; 4 or 8 would fit"),
        ((REDUCE_SCATTER, SUM, -1, list(range(8))), "over 8 ranks, but it is 6 long; 8 would fit"),
    ],
)
def test_what_is_refused_at_once(arguments, reason):
    bench = RanksBench()
    assert bench.network.add_dist_collective(bench.input("x", (6, 2)), *arguments) is None
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bench.log.last)
    assert bench.network.num_layers == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "operation", "reduce_op", "reason"),
    [
        ((), trt.float32, ALL_REDUCE, SUM, "at least one dimension, and the input is a scalar"),
        (
            (2,),
            trt.int8,
            ALL_REDUCE,
            SUM,
            "ALL_REDUCE SUM does not take INT8; it takes BF16, FLOAT, HALF, INT32, INT64",
        ),
        (
            (2,),
            trt.int32,
            ALL_REDUCE,
            R.AVG,
            "ALL_REDUCE AVG does not take INT32; it takes BF16, FLOAT, HALF",
        ),
        ((2,), trt.bool, REDUCE_SCATTER, R.MAX, "REDUCE_SCATTER MAX does not take BOOL"),
    ],
)
def test_inputs_that_are_refused(shape, dtype, operation, reduce_op, reason):
    bench = RanksBench()
    assert (
        bench.network.add_dist_collective(bench.input("x", shape, dtype), operation, reduce_op, -1, [0, 1])
        is None
    )
    assert reason in bench.log.last


def test_wrong_python_types_raise():
    bench = RanksBench()
    x = bench.input("x", (6,))
    with pytest.raises(TypeError, match="CollectiveOperation"):
        bench.network.add_dist_collective(x, SUM, SUM, -1, [0])
    with pytest.raises(TypeError, match=r"expected an int, got 0\.5"):
        bench.network.add_dist_collective(x, ALL_REDUCE, SUM, -1, [0.5])


def test_the_number_of_ranks_follows_from_the_group():
    bench = RanksBench()
    x = bench.input("x", (6,))
    layer = bench.network.add_dist_collective(x, ALL_REDUCE, SUM, -1, [0, 1, 2])
    assert layer.num_ranks == 3
    layer.num_ranks = 3
    bench.output(layer.get_output(0), "y")
    assert bench.build() is not None
    layer.num_ranks = 2
    assert bench.build() is None
    assert "num_ranks=2 contradicts groups=[0, 1, 2] of 3; set num_ranks=3" in bench.log.last
    other = bench.network.add_identity(x)
    other.num_ranks = 1
    other.num_ranks = 2
    assert "num_ranks=2 cannot be set; it is 1, and more for an IDistCollectiveLayer only" in bench.log.last
    assert other.num_ranks == 1


def test_reduce_layers_do_not_reduce_with_none():
    bench = RanksBench()
    x = bench.input("x", (6,))
    assert bench.network.add_reduce(x, NONE, 1, False) is None
    assert "ReduceOperation.NONE is for collectives only" in bench.log.last
    layer = bench.network.add_reduce(x, SUM, 1, False)
    layer.op = NONE
    bench.output(layer.get_output(0), "y")
    assert bench.build() is None
    assert "a reduce layer takes SUM, PROD, MAX, MIN or AVG" in bench.log.last


def test_shape_programs_know_collectives():
    bench = RanksBench()
    x = bench.input("x", (-1, 2))
    bench.output(bench.collective(x, 3, ALL_GATHER, NONE), "gathered")
    bench.output(bench.collective(x, 3, REDUCE_SCATTER), "scattered")
    program = ShapeProgram.of(bench.network, ["gathered", "scattered"])
    again = ShapeProgram.from_json(program.to_json())
    for one in (program, again):
        assert one.run({"x": (6, 2)}) == {"gathered": (18, 2), "scattered": (2, 2)}
        with pytest.raises(ValueError, match="it is 7 long; 6 or 9 would fit"):
            one.run({"x": (7, 2)})
    damaged = program.to_json()
    damaged["steps"][0]["attributes"]["groups"] = [0, "1"]
    with pytest.raises(ValueError, match="'1'"):
        ShapeProgram.from_json(damaged)


def test_a_length_that_does_not_split_is_refused_before_the_run():
    bench = RanksBench()
    bench.output(bench.collective(bench.input("x", (-1, 2)), 3, REDUCE_SCATTER), "y")
    context = bench.load(bench.build({"x": ((1, 2), (3, 2), (8, 2))})).create_execution_context()
    assert context.set_input_shape("x", (4, 2))
    with pytest.raises(RuntimeError):
        context.infer_shapes()
    assert (
        "REDUCE_SCATTER splits dimension 0 over 3 ranks, but it is 4 long; 3 or 6 would fit" in bench.log.last
    )


def test_no_collective_lies_inside_a_loop_or_a_conditional():
    bench = RanksBench()
    x = bench.input("x", (2,))
    loop = bench.network.add_loop()
    loop.add_trip_limit(bench.constant(np.array(3, np.int32)), trt.TripLimit.COUNT)
    carried = loop.add_recurrence(x)
    summed = bench.collective(carried.get_output(0), 2)
    carried.set_input(1, summed)
    bench.output(loop.add_loop_output(carried.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0), "y")
    assert bench.build() is None
    assert (
        "collectives cannot be inside a loop or a branch of a conditional, where ranks could part"
        in bench.log.last
    )
    bench = RanksBench()
    x, condition = bench.input("x", (2,)), bench.input("c", (), trt.bool)
    choice = bench.network.add_if_conditional()
    choice.set_condition(condition)
    inside = choice.add_input(x).get_output(0)
    bench.output(choice.add_output(bench.collective(inside, 2), inside).get_output(0), "y")
    assert bench.build() is None
    assert "collectives cannot be inside a loop or a branch of a conditional" in bench.log.last


def test_sizes_that_depend_on_data_are_refused():
    bench = RanksBench()
    places = bench.network.add_non_zero(bench.input("x", (4,))).get_output(0)
    bench.output(bench.collective(places, 2), "y")
    assert bench.build() is None
    assert "depends on data, so it could differ between ranks" in bench.log.last
