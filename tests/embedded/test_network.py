"""The network as an object: identity, names, order, changes after creation, errors."""

import gc
import sys
import weakref

import numpy as np
import pytest
from defining import Recorder, add_constant, add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt
from trtllm_ext.errors import BuildError

BUDGET_S = 10
SUM = trt.ElementWiseOperation.SUM
RELU = trt.ActivationType.RELU


def test_tensors_and_layers_are_the_same_objects_every_time():
    network = new_network()
    x = add_input(network, (2, 3))
    layer = network.add_elementwise(x, x, SUM)
    network.mark_output(layer.get_output(0))
    assert network.get_layer(0) is layer
    assert network.get_input(0) is x
    assert layer.get_input(0) is layer.get_input(1) is x
    assert layer.get_output(0) is network.get_layer(0).get_output(0) is network.get_output(0)
    assert (network.num_layers, network.num_inputs, network.num_outputs) == (1, 1, 1)
    assert (layer.num_inputs, layer.num_outputs) == (2, 1)


def test_out_of_range_is_none():
    network = new_network()
    layer = network.add_shape(add_input(network, (2,)))
    assert layer.get_input(1) is layer.get_output(1) is layer.get_input(-1) is None
    assert network.get_layer(1) is network.get_input(1) is network.get_output(0) is None
    assert len(errors_of(network)) == 3


def test_layer_type_prints_as_tensorrts_and_class_can_be_assigned():
    network = new_network()
    x = add_input(network, (2, 3))
    network.add_elementwise(x, x, SUM)
    layer = network.get_layer(0)
    assert str(layer.type) == "LayerType.ELEMENTWISE"
    layer.__class__ = trt.ILayer
    assert not hasattr(layer, "op")
    layer.__class__ = trt.IElementWiseLayer
    assert layer.op == SUM
    layer.__class__ = trt.IReduceLayer
    with pytest.raises(AttributeError, match="ELEMENTWISE"):
        _ = layer.axes


def test_activation_shows_its_function_to_its_own_class_and_its_kind_to_others():
    network = new_network()
    layer = network.add_activation(add_input(network, (2,)), RELU)
    assert layer.type == RELU
    for _ in range(2):  # a second reader is not disturbed by what the first did to its view
        other = network.get_layer(0)
        assert other.type == trt.LayerType.ACTIVATION
        assert other == layer and hash(other) == hash(layer)
        other.__class__ = trt.IActivationLayer
        assert other.type == RELU
    other.type = trt.ActivationType.TANH
    assert layer.type == trt.ActivationType.TANH


def test_names_are_tensorrts_and_outputs_keep_theirs():
    network = new_network()
    x = add_input(network, (2, 3), name="x")
    layer = network.add_elementwise(x, x, SUM)
    network.add_matrix_multiply(x, trt.MatrixOperation.NONE, x, trt.MatrixOperation.TRANSPOSE)
    assert layer.name == "(Unnamed Layer* 0) [ElementWise]"
    assert network.get_layer(1).name == "(Unnamed Layer* 1) [MatrixMultiply]"
    layer.name = "sum"
    assert layer.get_output(0).name == "(Unnamed Layer* 0) [ElementWise]_output"
    layer.get_output(0).name = "y"
    assert layer.get_output(0).name == "y"
    layer.metadata = "residual"
    assert (layer.name, layer.metadata) == ("sum", "residual")


def test_a_failing_add_logs_the_reason_and_leaves_nothing_behind():
    network = new_network()
    x, y = add_input(network, (2, 3)), add_input(network, (2, 4))
    assert network.add_elementwise(x, y, SUM) is None
    assert network.num_layers == 0 and not x._consumers
    [message] = errors_of(network)
    assert "(2, 3), (2, 4)" in message and "dimension 1" in message
    assert network.add_unary(None, trt.UnaryOperation.EXP) is None
    assert "input 0 is None" in errors_of(network)[-1]
    other = new_network()
    assert other.add_unary(x, trt.UnaryOperation.EXP) is None
    assert "another network" in errors_of(other)[-1]


@pytest.mark.parametrize(
    "call",
    [
        lambda n, x: n.add_elementwise(x, x, "SUM"),
        lambda n, x: n.add_elementwise(x, x, trt.UnaryOperation.EXP),
        lambda n, x: n.add_unary("x", trt.UnaryOperation.EXP),
        lambda n, x: n.add_cast(x, np.float32),
        lambda n, x: n.add_slice(x, 0, 1, 1),
        lambda n, x: n.add_reduce(x, trt.ReduceOperation.SUM, 1.0, True),
        lambda n, x: n.add_gather(x, x, 0.5),
        lambda n, x: n.add_constant((1,), [1.0]),
        lambda n, x: n.add_input("y", "float32", (1,)),
        lambda n, x: n.mark_output("x"),
        lambda n, x: n.add_shape(x).set_input(0, "x"),
    ],
)
def test_arguments_of_a_wrong_python_type_raise(call):
    network = new_network()
    with pytest.raises(TypeError):
        call(network, add_input(network, (2, 3)))


@pytest.mark.parametrize(
    ("name", "dtype", "shape", "reason"),
    [
        ("x", trt.float32, (2,), "already"),
        ("", trt.float32, (2,), "characters"),
        ("y", trt.float32, (-2,), "-1 for unknown"),
        ("y", trt.int4, (2,), "INT4"),
    ],
)
def test_inputs_that_cannot_be(name, dtype, shape, reason):
    network = new_network()
    add_input(network, (2,), name="x")
    assert network.add_input(name, dtype, shape) is None
    assert reason in errors_of(network)[0]


def test_an_input_may_come_from_a_later_layer():
    network = new_network()
    x = add_input(network, (2, -1))
    reshape = network.add_shuffle(x)
    follower = network.add_activation(reshape.get_output(0), RELU)
    assert shape_of(follower.get_output(0)) == (2, -1)
    reshape.set_input(1, add_constant(network, [-1, 4]))
    assert shape_of(follower.get_output(0)) == (-1, 4)
    assert [layer.type for layer in network._ordered_layers()][:2] == [
        trt.LayerType.CONSTANT,
        trt.LayerType.SHUFFLE,
    ]
    assert reshape.num_inputs == 2


def test_changes_reach_everything_that_follows():
    network = new_network()
    x = add_input(network, (2, 3, 4))
    reduce = network.add_reduce(x, trt.ReduceOperation.SUM, 1, True)
    shape = network.add_shape(network.add_activation(reduce.get_output(0), RELU).get_output(0)).get_output(0)
    fill = network.add_fill((), trt.FillOperation.LINSPACE, trt.int32)
    fill.set_input(0, shape)
    fill.set_input(1, add_constant(network, 0, np.int32))
    fill.set_input(2, add_constant(network, [1, 1, 1], np.int32))
    last = fill.get_output(0)
    assert shape_of(last) == (1, 3, 4)
    reduce.axes = 6
    assert shape_of(last) == (2, 1, 1)
    x.shape = (5, -1, 7)
    assert shape_of(last) == (5, 1, 1)
    reduce.axes = 1
    assert shape_of(last) == (1, -1, 7)
    reduce.set_input(0, add_input(network, (8, 9, 10)))
    assert shape_of(last) == (1, 9, 10)


def test_an_error_that_a_later_attribute_mends_is_not_reported():
    network = new_network()
    x, y = add_input(network, (2, 3)), add_input(network, (2, 4))
    joined = network.add_concatenation([x, y])
    after = network.add_activation(joined.get_output(0), RELU)
    assert errors_of(network) == []
    joined.axis = 1
    assert shape_of(after.get_output(0)) == (2, 7)
    network.mark_output(after.get_output(0))
    assert network._errors() == []


def test_an_error_that_stays_is_reported_once_and_at_build():
    network = new_network()
    joined = network.add_concatenation([add_input(network, (2, 3)), add_input(network, (3, 4))])
    joined.name = "join"
    after = network.add_activation(joined.get_output(0), RELU)
    network.mark_output(after.get_output(0))
    for _ in range(2):
        with pytest.raises(ValueError, match="__len__"):
            len(after.get_output(0).shape)
    [message] = errors_of(network)
    assert message.startswith("join: inputs of a concatenation along axis 0 must agree")
    assert network._errors() == [message]


def test_build_errors_of_the_network_itself():
    network = new_network()
    x = add_input(network, (2,), name="x")
    assert "no outputs" in network._errors()[0]
    layer = network.add_activation(x, RELU)
    layer.get_output(0).name = "x"
    network.mark_output(layer.get_output(0))
    assert network._errors() == ["two inputs, outputs or debug tensors are named 'x'; names must differ"]


def test_a_cycle_is_a_build_error_and_not_a_hang():
    network = new_network()
    x = add_input(network, (2,))
    first = network.add_elementwise(x, x, SUM)
    second = network.add_activation(first.get_output(0), RELU)
    network.mark_output(second.get_output(0))
    first.set_input(1, second.get_output(0))
    with pytest.raises(BuildError, match="cycle"):
        network._ordered_layers()
    assert any("cycle" in error for error in network._errors())
    first.set_input(1, x)
    assert network._errors() == []
    assert shape_of(second.get_output(0)) == (2,)


def test_a_layer_that_feeds_itself():
    network = new_network()
    layer = network.add_activation(add_input(network, (2,)), RELU)
    layer.set_input(0, layer.get_output(0))
    network.mark_output(layer.get_output(0))
    assert "cycle" in network._errors()[0]


def test_marking_outputs():
    network = new_network()
    x = add_input(network, (2,))
    y = network.add_activation(x, RELU).get_output(0)
    network.mark_output(y)
    network.mark_output(y)
    assert network.num_outputs == 1
    assert network._graph.logger.messages[-1][0] == trt.Logger.WARNING
    assert y.is_network_output and not y.is_network_input and x.is_network_input
    network.unmark_output(y)
    assert network.num_outputs == 0 and not y.is_network_output


def test_removing_tensors():
    network = new_network()
    used, unused = add_input(network, (2,)), add_input(network, (3,))
    network.add_activation(used, RELU)
    network.remove_tensor(unused)
    network.remove_tensor(used)
    assert network.num_inputs == 1 and network.get_input(0) is used


def test_buffers_of_constants_may_be_filled_until_the_build():
    network = new_network()
    dims = np.array([3, 2], np.int32)
    reshape = network.add_shuffle(add_input(network, (2, 3)))
    reshape.set_input(1, network.add_constant((2,), dims).get_output(0))
    network.mark_output(reshape.get_output(0))
    assert shape_of(reshape.get_output(0)) == (3, 2)
    dims[:] = 6, 1
    assert network._errors() == []
    assert shape_of(reshape.get_output(0)) == (6, 1)


def test_flags():
    network = new_network()
    assert trt.INetworkDefinition.get_flag(network, trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert not new_network(strongly_typed=False).get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert network.flags == 2 and network.has_implicit_batch_dimension is False


def test_networks_and_tensors_can_be_referred_to_weakly_and_go_away():
    network = trt.INetworkDefinition(Recorder(), 2)
    tensor = add_input(network, (2,))
    references = [weakref.ref(network), weakref.ref(tensor), weakref.ref(network.add_shape(tensor))]
    assert all(reference() is not None for reference in references)
    del network, tensor
    gc.collect()
    assert all(reference() is None for reference in references)


def test_tensors_and_layers_are_made_by_networks_only():
    with pytest.raises(TypeError):
        trt.ITensor()
    with pytest.raises(TypeError):
        trt.IShapeLayer()


def _chain(length):
    network = new_network()
    tensor = add_input(network, (2, -1))
    layers = []
    for _ in range(length):
        layers.append(network.add_elementwise(tensor, tensor, SUM))
        tensor = layers[-1].get_output(0)
    network.mark_output(tensor)
    return network, layers, tensor


def test_ten_thousand_layers_in_a_row():
    network, layers, last = _chain(10_000)
    network.get_input(0).shape = (7, 5)
    assert shape_of(last) == (7, 5)
    assert network._errors() == []
    assert [layer.name for layer in network._ordered_layers()] == [layer.name for layer in layers]


def _calls_for_chain(length):
    """How many functions are called: the cost, whatever else the machine does."""
    calls = 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        _chain(length)
    finally:
        sys.setprofile(None)
    return calls


def test_cost_grows_with_the_number_of_layers():
    small, large = _calls_for_chain(200), _calls_for_chain(1_600)
    assert large < 8 * 1.1 * small, f"200 layers took {small} calls, 1600 took {large}"


def test_shape_tensors():
    network = new_network()
    x, scale = add_input(network, (-1, 4)), add_input(network, (), trt.int32, "scale")
    lengths = network.add_cast(network.add_shape(x).get_output(0), trt.int32).get_output(0)
    unsqueezed = network.add_shuffle(scale)
    unsqueezed.reshape_dims = (1,)
    product = network.add_elementwise(lengths, unsqueezed.get_output(0), trt.ElementWiseOperation.PROD)
    assert not scale.is_shape_tensor
    fill = network.add_fill((), trt.FillOperation.RANDOM_UNIFORM)
    fill.set_input(0, product.get_output(0))
    assert scale.is_shape_tensor and lengths.is_shape_tensor and product.get_output(0).is_shape_tensor
    assert not x.is_shape_tensor and not fill.get_output(0).is_shape_tensor
    assert x.is_execution_tensor and not lengths.is_execution_tensor


def test_values_marked_as_output():
    network = new_network()
    lengths = network.add_shape(add_input(network, (-1, 4))).get_output(0)
    assert not lengths.is_shape_tensor
    assert network.mark_output_for_shapes(lengths)
    assert lengths.is_shape_tensor
    assert network.unmark_output_for_shapes(lengths) and not lengths.is_shape_tensor


def test_what_only_a_gpu_cares_for_is_kept():
    network = new_network()
    x = add_input(network, (2,))
    x.location, x.allowed_formats, x.dynamic_range = trt.TensorLocation.HOST, 3, (-1.0, 1.0)
    assert (x.location, x.allowed_formats, x.dynamic_range) == (trt.TensorLocation.HOST, 3, (-1.0, 1.0))
    assert not x.set_dynamic_range(1.0, -1.0) and x.dynamic_range == (-1.0, 1.0)
    x.reset_dynamic_range()
    x.set_dimension_name(0, "tokens")
    assert x.dynamic_range is None and x.get_dimension_name(0) == "tokens" and x.get_dimension_name(1) is None


def test_one_tensor_is_no_list_to_concatenate():
    network = new_network()
    x = network.add_input("x", trt.float32, (2,))
    with pytest.raises(TypeError, match="takes a list of tensors"):
        network.add_concatenation(x)
