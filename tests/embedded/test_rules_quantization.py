"""Rules of quantize and dequantize layers: shapes and types at definition, what is refused and how it is said."""

import numpy as np
import pytest
from defining import Recorder, add_input, errors_of, new_network, shape_of

import trtllm_ext.embedded as trt

BUDGET_S = 3

_ALIVE = []


def scale(network, shape=(), dtype=trt.float32):
    array = np.full(shape, 0.5, np.float32)
    if dtype != trt.float32:
        array = array.astype(np.float16)
    _ALIVE.append(array)
    return network.add_constant(shape, trt.Weights(dtype, array.ctypes.data, array.size)).get_output(0)


def quantize(network, shape, scale_shape=(), to=None, dtype=trt.float32, scale_type=trt.float32):
    data = add_input(network, shape, dtype)
    return network.add_quantize(data, scale(network, scale_shape, scale_type), *([] if to is None else [to]))


def dequantize(network, shape, scale_shape=(), to=None, dtype=trt.int8, scale_type=trt.float32):
    data = add_input(network, shape, dtype)
    return network.add_dequantize(
        data, scale(network, scale_shape, scale_type), *([] if to is None else [to])
    )


def test_defaults():
    network = new_network()
    layer = quantize(network, (-1, 4))
    assert (layer.axis, layer.to_type, layer.num_inputs) == (-1, trt.int8, 2)
    assert layer.type == trt.LayerType.QUANTIZE
    assert layer.get_output(0).dtype == trt.int8
    assert shape_of(layer.get_output(0)) == (-1, 4)
    layer = dequantize(network, (-1, 4))
    assert (layer.axis, layer.to_type) == (-1, trt.float32)
    assert layer.type == trt.LayerType.DEQUANTIZE
    assert layer.get_output(0).dtype == trt.float32


@pytest.mark.parametrize("to", [trt.int8, trt.fp8, trt.int4])
@pytest.mark.parametrize("dtype", [trt.float32, trt.float16, trt.bfloat16])
@pytest.mark.parametrize("strongly_typed", [True, False])
def test_types(to, dtype, strongly_typed):
    network = new_network(strongly_typed)
    layer = quantize(network, (2, 3), to=to, dtype=dtype)
    assert layer.get_output(0).dtype == to
    back = network.add_dequantize(layer.get_output(0), scale(network), dtype)
    assert back.get_output(0).dtype == dtype
    back.to_type = trt.float16
    assert back.get_output(0).dtype == trt.float16


def test_axis_is_set_after_creation():
    network = new_network()
    layer = quantize(network, (2, 3, -1), (3,))
    assert layer is not None
    assert errors_of(network) == []
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert (
        "the scale has 3 elements, so axis must say which dimension they go along: 0 to 2"
        in errors_of(network)[0]
    )
    layer.axis = 1
    assert shape_of(layer.get_output(0)) == (2, 3, -1)
    layer.axis = 2
    assert shape_of(layer.get_output(0)) == (2, 3, -1)
    layer.axis = 0
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert "the scale has 3 elements, but dimension 0" in errors_of(network)[-1]


def test_one_coefficient_of_any_rank_is_for_the_whole_tensor():
    for shape in ((), (1,), (1, 1), (1, 1, 1)):
        network = new_network()
        assert shape_of(quantize(network, (2, 3), shape).get_output(0)) == (2, 3)


@pytest.mark.parametrize(
    ("shape", "scale_shape"), [((4, 6), (2, 6)), ((4, 6), (4, 3)), ((4, 6), (4, 6)), ((-1, 4, 6), (-1, 4, 2))]
)
def test_blocks(shape, scale_shape):
    network = new_network()
    data = add_input(network, shape, trt.float32)
    layer = network.add_quantize(data, add_input(network, scale_shape), trt.fp8)
    assert shape_of(layer.get_output(0)) == shape


@pytest.mark.parametrize(
    ("shape", "scale_shape", "message"),
    [
        ((4, 6), (4, 4), "all lengths must be equal but one"),
        ((4, 6), (2, 3), "all lengths must be equal but one"),
        ((2, 4, 6), (3, 4, 3), "all lengths must be equal but one"),
        ((2, 4, 6), (4, 6), "it must be one number, a vector along axis, or of the input's rank"),
        ((-1, 6), (2, 6), "must be known when the network is built, to tell blocks"),
        ((4, 6), (0, 6), "all lengths must be equal but one"),
    ],
)
def test_blocks_that_do_not_fit(shape, scale_shape, message):
    network = new_network()
    layer = network.add_quantize(add_input(network, shape), add_input(network, scale_shape), trt.fp8)
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert message in errors_of(network)[-1]


def test_blocks_of_int8_are_refused():
    network = new_network()
    layer = quantize(network, (4, 6), (2, 6))
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert "means blocks, which INT8 does not have; only FP8 and INT4" in errors_of(network)[-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda n: quantize(n, (3,), dtype=trt.int32),
            "quantize does not take INT32; it takes BF16, FLOAT, HALF",
        ),
        (lambda n: quantize(n, (3,), dtype=trt.int8), "quantize does not take INT8"),
        (lambda n: quantize(n, ()), "the input must not be a scalar"),
        (lambda n: dequantize(n, ()), "the input must not be a scalar"),
        (
            lambda n: dequantize(n, (3,), dtype=trt.float32),
            "dequantize does not take FLOAT; it takes FP8, INT4, INT8",
        ),
        (lambda n: dequantize(n, (3,), dtype=trt.int32), "dequantize does not take INT32"),
        (
            lambda n: quantize(n, (3,), scale_type=trt.float16),
            "the scale (input 1) is HALF, but the input is FLOAT",
        ),
        (
            lambda n: n.add_quantize(add_input(n, (3,)), add_input(n, (), trt.int32)),
            "the scale (input 1) of quantize does not take INT32",
        ),
        (lambda n: n.add_quantize(add_input(n, (3,)), None), "input 1 is None"),
    ],
)
def test_operands_that_nothing_mends_are_refused_at_once(make, message):
    network = new_network()
    assert make(network) is None
    assert message in errors_of(network)[-1]
    assert network.num_layers <= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda n: quantize(n, (3,), to=trt.fp4),
            "quantize to FP4 is not supported; to_type may be FP8, INT4, INT8",
        ),
        (lambda n: quantize(n, (3,), to=trt.int32), "quantize to INT32 is not supported"),
        (lambda n: dequantize(n, (3,), to=trt.int32), "to_type may be BF16, FLOAT, HALF"),
        (lambda n: dequantize(n, (3,), scale_type=trt.float16), "is HALF, but the output is FLOAT"),
    ],
)
def test_types_that_may_still_be_set_are_reported_later(make, message):
    network = new_network()
    layer = make(network)
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert message in errors_of(network)[-1]


def test_a_weakly_typed_network_mixes_floats():
    network = new_network(strongly_typed=False)
    assert quantize(network, (3,), scale_type=trt.float16).get_output(0).dtype == trt.int8
    layer = dequantize(network, (3,), scale_type=trt.float16)
    layer.precision = trt.int8
    assert layer.precision == trt.int8
    assert layer.get_output(0).dtype == trt.float32


def test_output_type_and_to_type_must_agree():
    network = new_network(strongly_typed=False)
    layer = quantize(network, (3,))
    layer.set_output_type(0, trt.int8)
    assert layer.get_output(0).dtype == trt.int8
    layer.set_output_type(0, trt.fp8)
    with pytest.raises(ValueError, match="len"):
        len(layer.get_output(0).shape)
    assert "output type FP8 was set on a quantize layer to INT8" in errors_of(network)[-1]


def test_zero_point():
    network = new_network()
    layer = quantize(network, (3,))
    zero = add_input(network, (), trt.int8)
    layer.set_input(2, zero)
    assert layer.num_inputs == 3
    assert shape_of(layer.get_output(0)) == (3,)
    for wrong, message in (
        (add_input(network, (), trt.fp8), "is FP8; it must be INT8, the type of the output"),
        (add_input(network, (3,), trt.int8), "has shape (3,); it must be that of the scale, ()"),
    ):
        layer.set_input(2, wrong)
        with pytest.raises(ValueError, match="len"):
            len(layer.get_output(0).shape)
        assert message in errors_of(network)[-1]


def test_attributes_are_checked():
    layer = quantize(new_network(), (3,))
    with pytest.raises(TypeError, match="expected an int"):
        layer.axis = 1.5
    with pytest.raises(TypeError, match="expected a value of DataType"):
        layer.to_type = "int8"
    with pytest.raises(TypeError, match="expected a value of DataType"):
        new_network().add_quantize(None, None, "int8")


def test_arithmetic_takes_no_fp8():
    network = new_network()
    x = add_input(network, (3,), trt.fp8)
    assert network.add_elementwise(x, x, trt.ElementWiseOperation.SUM) is None
    assert "FP8" in errors_of(network)[-1]


def test_dynamic_range_is_kept():
    tensor = add_input(new_network(strongly_typed=False), (3,))
    assert tensor.dynamic_range is None
    assert tensor.set_dynamic_range(-127, 127)
    assert tensor.dynamic_range == (-127.0, 127.0)
    tensor.dynamic_range = (-1, 1)
    assert tensor.dynamic_range == (-1.0, 1.0)
    tensor.reset_dynamic_range()
    assert tensor.dynamic_range is None


def build(network, recorder, flag=None):
    builder = trt.Builder(recorder)
    config = builder.create_builder_config()
    if flag is not None:
        config.set_flag(flag)
    return builder.build_serialized_network(network, config)


def test_int8_flag():
    """Of no effect on a weakly typed network, refused for a strongly typed one."""
    for strongly_typed in (False, True):
        network, recorder = new_network(strongly_typed), Recorder()
        output = quantize(network, (3,)).get_output(0)
        network.mark_output(output)
        plan = build(network, recorder, trt.BuilderFlag.INT8)
        assert (plan is None) == strongly_typed
        if strongly_typed:
            assert "flag INT8 cannot be set for a strongly typed network" in recorder.errors[-1]


def test_int4_outputs_are_an_error_of_the_build():
    network, recorder = new_network(), Recorder()
    network.mark_output(quantize(network, (3,), to=trt.int4).get_output(0))
    assert build(network, recorder) is None
    assert "INT4" in recorder.errors[-1]


def test_shapes_are_computed_for_layers_behind():
    """A reshape by the shape of a quantized tensor: the layers go into the plan's shape program."""
    network, recorder = new_network(), Recorder()
    layer = quantize(network, (-1, 3), (3,))
    layer.axis = 1
    doubled = network.add_concatenation([layer.get_output(0), layer.get_output(0)])
    doubled.axis = 0
    network.mark_output(doubled.get_output(0))
    builder = trt.Builder(recorder)
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("input0", (0, 3), (2, 3), (5, 3))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    engine = trt.Runtime(recorder).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    name = engine.get_tensor_name(1)
    assert engine.get_tensor_dtype(name) == trt.int8
    assert context.set_input_shape("input0", (4, 3))
    assert tuple(context.get_tensor_shape(name)) == (8, 3)
