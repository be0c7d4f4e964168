"""ShapeProgram: the same shapes as the network infers, without the network, through JSON, whatever the JSON."""

import copy
import json

import numpy as np
import pytest
from defining import add_constant, add_input, new_network, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import examples

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram

BUDGET_S = 8


def _attention_like():
    """Heads split by a computed reshape, scores, and a sum over the sequence."""
    network = new_network()
    x = add_input(network, (-1, -1, 24), name="x")
    lengths = network.add_shape(x).get_output(0)
    leading = [network.add_gather(lengths, add_constant(network, [axis]), 0).get_output(0) for axis in (0, 1)]
    split = network.add_shuffle(x)
    split.set_input(1, network.add_concatenation([*leading, add_constant(network, [4, 6])]).get_output(0))
    split.second_transpose = (0, 2, 1, 3)
    heads = split.get_output(0)
    scores = network.add_matrix_multiply(
        heads, trt.MatrixOperation.NONE, heads, trt.MatrixOperation.TRANSPOSE
    )
    weights = network.add_softmax(scores.get_output(0))
    weights.axes = 1 << 3
    pooled = network.add_reduce(x, trt.ReduceOperation.SUM, 0b10, False)
    for name, layer in (("weights", weights), ("pooled", pooled)):
        layer.get_output(0).name = name
        network.mark_output(layer.get_output(0))
    return network


def _sliced_by_values():
    """A slice whose size is the value of an input, and a fill as long as the input."""
    network = new_network(strongly_typed=False)
    x, size = add_input(network, (-1, 5), name="x"), add_input(network, (2,), trt.int32, "size")
    other = add_input(network, (-1,), name="other")
    for tensor in (x, other):
        tensor.set_dimension_name(0, "length")
    cut = network.add_slice(x, (0, 0), (0, 0), (1, 1))
    cut.set_input(2, size)
    cut.get_output(0).name = "cut"
    cut.get_output(0).dtype = trt.float16
    lengths = network.add_cast(network.add_shape(x).get_output(0), trt.int32).get_output(0)
    first = network.add_slice(lengths, (0,), (1,), (1,)).get_output(0)
    fill = network.add_fill((), trt.FillOperation.LINSPACE, trt.int32)
    for number, tensor in enumerate(
        (first, add_constant(network, 0, np.int32), add_constant(network, [1], np.int32))
    ):
        fill.set_input(number, tensor)
    fill.get_output(0).name = "positions"
    for layer in (cut, fill):
        network.mark_output(layer.get_output(0))
    return network


def _through_json(program):
    return ShapeProgram.from_json(json.loads(json.dumps(program.to_json(), allow_nan=False)))


def test_shapes_follow_from_the_inputs_shapes():
    program = ShapeProgram.of(_attention_like(), ["weights", "pooled"])
    assert program.shape_inputs == ()
    for one in (program, _through_json(program)):
        assert one.run({"x": (2, 3, 24)}) == {"weights": (2, 4, 3, 3), "pooled": (2, 24)}
        assert one.run({"x": (1, 0, 24)}) == {"weights": (1, 4, 0, 0), "pooled": (1, 24)}
        assert one.run({"x": np.array([5, 1, 24])})["weights"] == (5, 4, 1, 1)


def test_shapes_follow_from_values():
    program = ShapeProgram.of(_sliced_by_values(), ["cut", "positions"])
    assert program.shape_inputs == ("size",)
    for one in (program, _through_json(program)):
        for dtype in (np.int32, np.int64):
            shapes = one.run({"x": (7, 5), "other": (7,)}, {"size": np.array([3, 2], dtype)})
            assert shapes == {"cut": (3, 2), "positions": (7,)}
        with pytest.raises(RuleError, match="values of input 'size' decide shapes"):
            one.run({"x": (7, 5), "other": (7,)})
        with pytest.raises(RuleError, match="out of bounds"):
            one.run({"x": (2, 5), "other": (2,)}, {"size": np.array([3, 2])})
        with pytest.raises(RuleError, match=r"shape \(2,\), but values of shape \(3,\)"):
            one.run({"x": (7, 5), "other": (7,)}, {"size": np.array([3, 2, 1])})


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({}, "is not given"),
        ({"x": (2, 3, 25)}, "declared as"),
        ({"x": (2, 3)}, "declared as"),
        ({"x": (2, -1, 24)}, "declared as"),
    ],
)
def test_inputs_that_do_not_fit(shapes, reason):
    with pytest.raises(RuleError, match=reason):
        ShapeProgram.of(_attention_like(), ["weights"]).run(shapes)


def test_only_what_shapes_depend_on_is_kept():
    network = new_network()
    x, other = add_input(network, (-1, 8), name="x"), add_input(network, (4, 8), name="other")
    weight = add_constant(network, np.zeros((8, 8)), np.float32)
    none = trt.MatrixOperation.NONE
    product = network.add_matrix_multiply(x, none, weight, none).get_output(0)
    static = network.add_activation(other, trt.ActivationType.RELU).get_output(0)
    for name, tensor in (("product", product), ("static", static)):
        tensor.name = name
        network.mark_output(tensor)
    written = ShapeProgram.of(network, ["product", "static"]).to_json()
    assert [step["kind"] for step in written["steps"]] == ["MATRIX_MULTIPLY"]
    assert [one[1] for one in written["inputs"]] == ["x"]
    assert [one[1:] for one in written["constants"]] == [["FLOAT", [8, 8], None], ["FLOAT", [4, 8], None]]
    assert ShapeProgram.from_json(written).run({"x": (3, 8)}) == {"product": (3, 8), "static": (4, 8)}


def test_any_tensor_can_be_asked_for():
    network = _attention_like()
    lengths = network.get_layer(0).get_output(0)
    lengths.name = "lengths"
    program = ShapeProgram.of(network, ["x", "lengths"])
    assert program.run({"x": (2, 3, 24)}) == {"x": (2, 3, 24), "lengths": (3,)}
    with pytest.raises(RuleError, match="no tensor 'nothing'"):
        ShapeProgram.of(network, ["nothing"])


def test_a_wrong_layer_on_the_way_is_named():
    network = new_network()
    x = add_input(network, (-1, 2), name="x")
    layer = network.add_concatenation([x, x])
    layer.name, layer.axis = "join", 2
    layer.get_output(0).name = "y"
    with pytest.raises(RuleError, match="join: axis 2 is out of range"):
        ShapeProgram.of(network, ["y"])


def test_a_layer_that_only_fails_at_run_time_is_named():
    network = new_network()
    x, y = add_input(network, (-1,), name="x"), add_input(network, (-1,), name="y")
    layer = network.add_elementwise(x, y, trt.ElementWiseOperation.SUM)
    layer.name = "residual"
    layer.get_output(0).name = "z"
    program = _through_json(ShapeProgram.of(network, ["z"]))
    assert program.run({"x": (3,), "y": (1,)}) == {"z": (3,)}
    with pytest.raises(RuleError, match="residual: broadcast dimensions"):
        program.run({"x": (3,), "y": (2,)})


def test_dimensions_of_one_name_are_equal():
    network = new_network()
    ids, mask = (
        add_input(network, (-1, -1), trt.int32, "ids"),
        add_input(network, (-1, -1), trt.int32, "mask"),
    )
    for tensor in (ids, mask):
        tensor.set_dimension_name(0, "batch")
        tensor.set_dimension_name(1, "length")
    ids.set_dimension_name(1, "other")
    network.add_shape(ids).get_output(0).set_dimension_name(0, "batch")
    network.add_identity(ids).get_output(0).name = "y"
    program = _through_json(ShapeProgram.of(network, ["y"]))
    assert program.run({"ids": (2, 3), "mask": (2, 7)}) == {"y": (2, 3)}
    with pytest.raises(RuleError, match=r"named 'batch' must be equal.*2 in dimension 0 of 'ids', 1 in"):
        program.run({"ids": (2, 3), "mask": (1, 3)})


def test_a_shape_that_depends_on_data_is_an_error_at_run_time():
    network = new_network()
    x = add_input(network, (2,), name="x")
    sizes = network.add_cast(network.add_softmax(x).get_output(0), trt.int32).get_output(0)
    fill = network.add_fill((), trt.FillOperation.RANDOM_UNIFORM)
    fill.set_input(0, sizes)
    fill.get_output(0).name = "y"
    with pytest.raises(RuleError, match="depends on data"):
        ShapeProgram.of(network, ["y"]).run({"x": (2,)})


def test_a_long_chain_is_compiled_and_run_without_recursion():
    network = new_network()
    tensor = add_input(network, (-1,), name="x")
    for _ in range(5_000):
        tensor = network.add_activation(tensor, trt.ActivationType.RELU).get_output(0)
    tensor.name = "y"
    assert ShapeProgram.of(network, ["y"]).run({"x": (3,)}) == {"y": (3,)}


@settings(max_examples=examples(60), deadline=None)
@given(batch=st.integers(0, 9), sequence=st.integers(0, 9))
def test_program_and_network_agree(batch, sequence):
    network = _attention_like()
    program = _through_json(ShapeProgram.of(network, ["weights", "pooled"]))
    computed = program.run({"x": (batch, sequence, 24)})
    network.get_input(0).shape = (batch, sequence, 24)
    assert computed == {name: shape_of(network.get_output(n)) for n, name in enumerate(("weights", "pooled"))}


RUNS = [
    (_attention_like, ["weights", "pooled"], {"x": (2, 3, 24)}, {}),
    (_sliced_by_values, ["cut", "positions"], {"x": (7, 5), "other": (7,)}, {"size": np.array([3, 2])}),
]
PROGRAMS = [ShapeProgram.of(make(), names).to_json() for make, names, _, _ in RUNS]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from(["SLICE", "FLOAT", "GATHER", "axis"]),
    st.lists(st.integers(-2, 9), max_size=9),
    st.dictionaries(st.text(max_size=2), st.none(), max_size=1),
)


def _places(data, path=()):
    yield path
    children = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, child in children:
        yield from _places(child, (*path, key))


def _damaged(data, draw):
    damaged = copy.deepcopy(data)
    path = draw(st.sampled_from([place for place in _places(data) if place]))
    parent = damaged
    for key in path[:-1]:
        parent = parent[key]
    if draw(st.booleans()):
        parent[path[-1]] = draw(JUNK)
    else:
        del parent[path[-1]]
    return damaged


@settings(max_examples=examples(1500), deadline=None)
@given(data=st.data(), which=st.sampled_from(range(len(RUNS))), twice=st.booleans())
def test_damaged_json_is_refused_or_runs_into_a_rule_but_never_crashes(data, which, twice):
    damaged = _damaged(PROGRAMS[which], data.draw)
    if twice and isinstance(damaged, dict):
        damaged = _damaged(damaged, data.draw)
    try:
        program = ShapeProgram.from_json(damaged)
    except ValueError:
        return
    try:
        results = program.run(RUNS[which][2], RUNS[which][3])
    except RuleError:
        return
    assert all(length >= 0 for shape in results.values() for length in shape)


@pytest.mark.parametrize("junk", [None, 1, "x", [], {}, {"version": 1}])
def test_what_is_no_program(junk):
    with pytest.raises(ValueError):
        ShapeProgram.from_json(junk)


def test_another_version_is_named():
    with pytest.raises(ValueError, match="version 2"):
        ShapeProgram.from_json(PROGRAMS[0] | {"version": 2})


def test_a_layer_whose_result_is_known_still_checks_the_lengths_of_a_run():
    network = new_network()
    x = add_input(network, (-1, 4), name="x")
    rows = network.add_slice(x, (0, 0), (2, 4), (1, 1)).get_output(0)
    network.add_reduce(rows, trt.ReduceOperation.SUM, 1, False).get_output(0).name = "y"
    program = _through_json(ShapeProgram.of(network, ["y"]))
    assert program.run({"x": (2, 4)}) == {"y": (4,)}
    with pytest.raises(RuleError, match="slice of dimension 0 is out of bounds"):
        program.run({"x": (1, 4)})


def test_where_a_slice_starts_is_a_matter_of_shape():
    network = new_network()
    x, start = add_input(network, (16,), name="x"), add_input(network, (1,), trt.int32, "start")
    layer = network.add_slice(x, (0,), (4,), (1,))
    layer.set_input(1, start)
    layer.get_output(0).name = "y"
    program = _through_json(ShapeProgram.of(network, ["y"]))
    assert start.is_shape_tensor and program.shape_inputs == ("start",)
    assert program.run({}, {"start": np.array([12])}) == {"y": (4,)}
    for outside in (-8, 13):
        with pytest.raises(RuleError, match="out of bounds"):
            program.run({}, {"start": np.array([outside])})
