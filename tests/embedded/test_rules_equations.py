"""Einstein sums and assertions: shapes, what is refused, and when; programs of all these layers through JSON."""

import json

import numpy as np
import pytest
from defining import add_constant, add_input, errors_of, new_network, shape_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling import examples
from test_rules_program import _damaged

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.rules import RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram

BUDGET_S = 6


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 4)], (2, 4)),
        ("ij,jk", [(2, 3), (3, 4)], (2, 4)),
        ("kj,ki", [(3, 2), (3, 4)], (4, 2)),
        ("i j , j k -> i k", [(2, 3), (3, 4)], (2, 4)),
        ("ij->", [(2, 3)], ()),
        ("->", [()], ()),
        ("ij,jk->ik", [(-1, 3), (-1, 4)], (-1, 4)),
        ("ij,ij->ij", [(-1, 3), (5, 1)], (5, 3)),
        ("ij,ij->ij", [(-1, 0), (1, 1)], (-1, 0)),
        ("ij,jk->ik", [(2, 3), (5, 4)], "dimension 'j' is 3 long in one input and 5 in another"),
        ("ij,jk->ik", [(2, 3)], "is of 2 inputs, but there are 1"),
        ("ijk->i", [(2, 3)], "input 0 has shape (2, 3), but 'ijk' names 3 dimensions"),
        ("ii->i", [(2, 2)], "names a dimension twice in 'ii'; diagonals are not supported"),
        ("ij->jj", [(2, 3)], "names a dimension twice in 'jj'"),
        ("...i->i", [(2, 3)], "has an ellipsis"),
        ("ij->k", [(2, 3)], "has 'k' in the output and in no input"),
        ("IJ->JI", [(2, 3)], "cannot be read; write lower-case letters"),
        ("ij->j->i", [(2, 3)], "cannot be read"),
    ],
)
def test_einsum(equation, shapes, expected):
    network = new_network()
    layer = network.add_einsum([add_input(network, shape) for shape in shapes], equation)
    if isinstance(expected, str):
        assert layer is None and expected in errors_of(network)[-1]
    else:
        assert layer.get_output(0)._known().shape == expected and layer.equation == equation


def test_types_of_an_einsum():
    network = new_network()
    half, single = add_input(network, (2, 3), trt.float16), add_input(network, (3, 4))
    assert network.add_einsum([half, single], "ij,jk->ik") is None
    assert "incompatible input types HALF and FLOAT" in errors_of(network)[-1]
    assert network.add_einsum([add_input(network, (2,), trt.bool)], "i->") is None
    assert "does not take BOOL" in errors_of(network)[-1]
    assert network.add_einsum([half], "ij->ji").get_output(0).dtype == trt.float16
    weak = new_network(strongly_typed=False)
    mixed = [add_input(weak, (2, 3), trt.float16), add_input(weak, (3, 4))]
    assert weak.add_einsum(mixed, "ij,jk->ik").get_output(0).dtype == trt.float32


def test_an_equation_can_be_changed_to_another_that_can_be_read():
    network = new_network()
    layer = network.add_einsum([add_input(network, (2, 3))], "ij->ji")
    layer.equation = "ij->i"
    assert shape_of(layer.get_output(0)) == (2,)
    layer.equation = "i...->i"
    assert layer.equation == "ij->i" and "ellipsis" in errors_of(network)[-1]
    assert network.add_einsum([], "->") is None


def _equal_lengths(network, x, other, message="lengths differ"):
    """x and other must be as long as each other."""
    zero = add_constant(network, [0], np.int32)
    lengths = [
        network.add_gather(network.add_shape(one).get_output(0), zero, 0).get_output(0) for one in (x, other)
    ]
    equal = network.add_elementwise(*lengths, trt.ElementWiseOperation.EQUAL).get_output(0)
    return network.add_assertion(equal, message)


def build(network):
    network.mark_output(network.add_unary(network.get_input(0), trt.UnaryOperation.NEG).get_output(0))
    builder = trt.Builder(network._graph.logger)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for number in range(network.num_inputs):
        tensor = network.get_input(number)
        if -1 in shape_of(tensor):
            low, high = ([bound if n == -1 else n for n in shape_of(tensor)] for bound in (1, 8))
            profile.set_shape(tensor.name, low, high, high)
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def test_an_assertion_that_cannot_hold_is_an_error_of_the_build():
    network = new_network()
    layer = _equal_lengths(network, add_input(network, (3, 4)), add_input(network, (2, 4)))
    assert layer.message == "lengths differ" and layer.num_outputs == 0 and layer.get_output(0) is None
    assert layer.type == trt.LayerType.ASSERTION
    assert build(network) is None
    assert any("assertion failed: lengths differ" in error for error in errors_of(network))


def test_an_assertion_that_holds_leaves_nothing_behind():
    network = new_network()
    _equal_lengths(network, add_input(network, (3, 4)), add_input(network, (3, 2)), "")
    assert build(network) is not None


def test_an_assertion_that_does_not_hold_in_a_run_refuses_it():
    network = new_network()
    _equal_lengths(network, add_input(network, (-1, 4), name="x"), add_input(network, (-1, 4), name="other"))
    logger = network._graph.logger
    context = trt.Runtime(logger).deserialize_cuda_engine(build(network)).create_execution_context()
    arrays = {"x": np.ones((3, 4), np.float32), "other": np.ones((2, 4), np.float32)}
    result = np.zeros((3, 4), np.float32)
    for name, array in arrays.items():
        assert context.set_input_shape(name, array.shape)
        context.set_tensor_address(name, array.ctypes.data)
    context.set_tensor_address(network.get_output(0).name, result.ctypes.data)
    assert not context.execute_async_v3(0)
    assert "assertion failed: lengths differ" in errors_of(network)[-1]
    assert not result.any()
    assert context.set_input_shape("other", (3, 4))
    arrays["other"] = np.ones((3, 4), np.float32)
    context.set_tensor_address("other", arrays["other"].ctypes.data)
    assert context.execute_async_v3(0)
    np.testing.assert_array_equal(result, -arrays["x"])


def test_conditions_that_no_shape_decides():
    network = new_network()
    shares = network.add_softmax(add_input(network, (-1,), name="x")).get_output(0)
    half = add_constant(network, [0.5], np.float32)
    positive = network.add_elementwise(shares, half, trt.ElementWiseOperation.GREATER)
    network.add_assertion(positive.get_output(0), "one outweighs all others")
    assert build(network) is None
    assert "an assertion is checked before a run, but its condition depends on data" in errors_of(network)[-1]


def test_what_is_no_condition():
    network = new_network()
    assert network.add_assertion(add_input(network, (1,)), "m") is None
    assert "an assertion does not take FLOAT" in errors_of(network)[-1]
    assert network.add_assertion(add_input(network, (1, 1), trt.bool), "m") is None
    assert "must be 0-D or 1-D" in errors_of(network)[-1]
    with pytest.raises(TypeError):
        network.add_assertion(add_input(network, (1,), trt.bool), None)


def test_the_values_of_an_input_that_an_assertion_reads_are_shape_values():
    network = new_network()
    flags = add_input(network, (2,), trt.bool, "flags")
    network.add_assertion(flags, "both flags")
    add_input(network, (3,), name="y")
    program = ShapeProgram.of(network, ["y"])
    assert flags.is_shape_tensor and program.shape_inputs == ("flags",)
    assert program.run({}, {"flags": np.array([True, True])}) == {"y": (3,)}
    with pytest.raises(RuleError, match="assertion failed: both flags"):
        program.run({}, {"flags": np.array([True, False])})


def _everything():
    """One layer of each kind after another, on lengths that a run tells."""
    network = new_network()
    x = add_input(network, (-1, 4, -1, -1), name="x")
    _equal_lengths(network, x, add_input(network, (-1, 1), name="other"))
    layer = network.add_convolution_nd(x, 2, (3, 3), np.zeros(36, np.float32), np.zeros(2, np.float32))
    layer.stride_nd, layer.num_groups = (2, 2), 2
    layer = network.add_deconvolution_nd(layer.get_output(0), 3, (2, 2), np.zeros(24, np.float32))
    layer = network.add_pooling_nd(layer.get_output(0), trt.PoolingType.AVERAGE, (2, 2))
    layer.padding_mode = trt.PaddingMode.SAME_UPPER
    layer = network.add_padding_nd(layer.get_output(0), (1, 0), (0, 1))
    scale = np.ones(3, np.float32)
    layer = network.add_scale(layer.get_output(0), trt.ScaleMode.CHANNEL, scale=scale)
    slopes = add_constant(network, np.ones((1, 3, 1, 1)), np.float32)
    layer = network.add_parametric_relu(layer.get_output(0), slopes)
    layer = network.add_resize(layer.get_output(0))
    layer.scales = (1, 1, 2, 0.5)
    layer = network.add_einsum([layer.get_output(0)], "nchw->hnw")
    layer.get_output(0).name = "y"
    return network


PROGRAM = ShapeProgram.of(_everything(), ["y"]).to_json()
SHAPES = {"x": (2, 4, 9, 8), "other": (2, 1)}


def test_programs_of_these_layers_pass_through_json():
    program = ShapeProgram.from_json(json.loads(json.dumps(PROGRAM)))
    assert program.run(SHAPES) == {"y": (12, 2, 2)}
    with pytest.raises(RuleError, match="lengths differ"):
        program.run(SHAPES | {"other": (1, 1)})
    with pytest.raises(RuleError, match="does not fit dimension 3"):
        program.run(SHAPES | {"x": (2, 4, 9, 2)})


@settings(max_examples=examples(300), deadline=None)
@given(data=st.data(), twice=st.booleans())
def test_damaged_programs_never_crash(data, twice):
    damaged = _damaged(PROGRAM, data.draw)
    if twice and isinstance(damaged, dict):
        damaged = _damaged(damaged, data.draw)
    try:
        program = ShapeProgram.from_json(damaged)
    except ValueError:
        return
    try:
        results = program.run(SHAPES)
    except RuleError:
        return
    assert all(length >= 0 for shape in results.values() for length in shape)
