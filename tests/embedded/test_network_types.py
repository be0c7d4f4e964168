"""Types: what strongly typed networks refuse, what weakly typed ones promote, what can be set."""

import numpy as np
import pytest
from defining import add_constant, add_input, errors_of, new_network

import trtllm_ext.embedded as trt

BUDGET_S = 10
FLOATS = (trt.float32, trt.float16, trt.bfloat16)
INTS = (trt.int32, trt.int64)
COMPARISONS = ("EQUAL", "GREATER", "LESS")
LOGIC = ("AND", "OR", "XOR")


@pytest.mark.parametrize("strongly_typed", [True, False])
@pytest.mark.parametrize("op", trt.ElementWiseOperation.__members__)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, trt.bool], ids=str)
def test_elementwise_of_one_type(op, dtype, strongly_typed):
    network = new_network(strongly_typed)
    x = add_input(network, (2,), dtype)
    layer = network.add_elementwise(x, x, trt.ElementWiseOperation.__members__[op])
    if op in LOGIC or (dtype == trt.bool and op != "EQUAL"):
        assert (layer is not None) == (op in LOGIC and dtype == trt.bool)
    else:
        assert layer.get_output(0).dtype == (trt.bool if op in COMPARISONS else dtype)


@pytest.mark.parametrize("op", trt.UnaryOperation.__members__)
@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, trt.bool], ids=str)
def test_unary(op, dtype):
    network = new_network()
    layer = network.add_unary(add_input(network, (2,), dtype), trt.UnaryOperation.__members__[op])
    numeric = dtype in FLOATS or (dtype in INTS and op in ("ABS", "NEG", "SIGN"))
    accepted = dtype == trt.bool if op == "NOT" else numeric
    assert (layer is not None) == accepted
    if accepted:
        assert layer.get_output(0).dtype == (trt.bool if op in ("ISINF", "ISNAN") else dtype)


@pytest.mark.parametrize("kind", trt.ActivationType.__members__)
def test_activations_keep_floats_and_refuse_bools(kind):
    network = new_network()
    for dtype in FLOATS:
        layer = network.add_activation(add_input(network, (2,), dtype), trt.ActivationType.__members__[kind])
        assert layer.get_output(0).dtype == dtype
    assert network.add_activation(add_input(network, (2,), trt.bool), layer.type) is None
    of_ints = network.add_activation(add_input(network, (2,), trt.int32), layer.type)
    assert (of_ints is not None) == (kind == "RELU")


def _mixers(network, a, b):
    none, total = trt.MatrixOperation.NONE, trt.ElementWiseOperation.SUM
    condition = add_input(network, (2, 2), trt.bool)
    yield network.add_elementwise(a, b, total)
    yield network.add_matrix_multiply(a, none, b, none)
    yield network.add_concatenation([a, b])
    yield network.add_select(condition, a, b)
    yield network.add_normalization(a, b, b, 2)


@pytest.mark.parametrize("types", [(trt.float16, trt.float32), (trt.float16, trt.bfloat16)], ids=str)
def test_mixed_floats_are_refused_or_computed_in_float32(types):
    for strongly_typed in (True, False):
        network = new_network(strongly_typed)
        a, b = (add_input(network, (2, 2), dtype) for dtype in types)
        for layer in _mixers(network, a, b):
            if strongly_typed:
                assert layer is None and "Insert a cast" in errors_of(network)[-1]
                assert all(dtype.name in errors_of(network)[-1] for dtype in types)
            else:
                assert layer.get_output(0).dtype == trt.float32


@pytest.mark.parametrize("strongly_typed", [True, False])
@pytest.mark.parametrize("types", [(trt.int32, trt.int64), (trt.float32, trt.int32)], ids=str)
def test_mixtures_with_integers_are_always_refused(types, strongly_typed):
    network = new_network(strongly_typed)
    a, b = (add_input(network, (2, 2), dtype) for dtype in types)
    assert list(_mixers(network, a, b)) == [None] * 5


@pytest.mark.parametrize(
    "refused",
    [
        lambda n, f, i, b: n.add_matrix_multiply(i, trt.MatrixOperation.NONE, i, trt.MatrixOperation.NONE),
        lambda n, f, i, b: n.add_softmax(i),
        lambda n, f, i, b: n.add_normalization(i, i, i, 2),
        lambda n, f, i, b: n.add_reduce(b, trt.ReduceOperation.SUM, 1, True),
        lambda n, f, i, b: n.add_gather(f, f, 0),
        lambda n, f, i, b: n.add_gather(f, b, 0),
        lambda n, f, i, b: n.add_select(f, f, f),
        lambda n, f, i, b: n.add_select(i, f, f),
    ],
)
def test_operands_that_no_attribute_can_mend_are_refused_at_once(refused):
    network = new_network()
    f, i, b = (add_input(network, (2, 2), dtype) for dtype in (trt.float32, trt.int32, trt.bool))
    assert refused(network, f, i, b) is None
    assert len(errors_of(network)) == 1


def test_types_of_layers_that_make_or_convert():
    network = new_network()
    x = add_input(network, (2, 3), trt.float16)
    assert network.add_shape(x).get_output(0).dtype == trt.int64
    assert network.add_cast(x, trt.int32).get_output(0).dtype == trt.int32
    assert network.add_identity(x).get_output(0).dtype == trt.float16
    assert network.add_fill((3,), trt.FillOperation.LINSPACE).get_output(0).dtype == trt.float32
    assert network.add_fill((3,), trt.FillOperation.LINSPACE, trt.int64).get_output(0).dtype == trt.int64
    assert network.add_gather(x, add_constant(network, [0]), 0).get_output(0).dtype == trt.float16
    assert add_constant(network, [True], bool).dtype == trt.bool


def test_strongly_typed_networks_take_no_precisions():
    network = new_network()
    layer = network.add_shape(add_input(network, (2,)))
    layer.precision = trt.float16
    layer.set_output_type(0, trt.int32)
    layer.get_output(0).dtype = trt.int32
    assert not layer.precision_is_set and not layer.output_type_is_set(0)
    assert layer.get_output(0).dtype == layer.get_output_type(0) == trt.int64
    assert len(errors_of(network)) == 3


def test_weakly_typed_precision_and_output_type():
    network = new_network(strongly_typed=False)
    x = add_input(network, (2,))
    layer = network.add_activation(x, trt.ActivationType.RELU)
    after = network.add_elementwise(layer.get_output(0), x, trt.ElementWiseOperation.SUM)
    assert layer.precision == trt.float32 and not layer.precision_is_set
    layer.precision = trt.float16
    assert layer.precision == trt.float16 and layer.precision_is_set
    assert layer.get_output(0).dtype == trt.float32
    layer.set_output_type(0, trt.float16)
    assert layer.output_type_is_set(0) and layer.get_output_type(0) == trt.float16
    assert layer.get_output(0).dtype == trt.float16 and after.get_output(0).dtype == trt.float32
    after.set_input(1, layer.get_output(0))
    assert after.get_output(0).dtype == trt.float16
    layer.reset_output_type(0)
    layer.reset_precision()
    assert not layer.output_type_is_set(0) and not layer.precision_is_set
    assert after.get_output(0).dtype == trt.float32
    assert errors_of(network) == []


def test_weakly_typed_output_types_convert_only_where_tensorrt_converts():
    network = new_network(strongly_typed=False)
    x = add_input(network, (2,))
    copy = network.add_identity(x)
    copy.set_output_type(0, trt.int32)
    assert copy.get_output(0).dtype == trt.int32
    layer = network.add_activation(x, trt.ActivationType.RELU)
    layer.set_output_type(0, trt.int32)
    network.mark_output(layer.get_output(0))
    assert "output type INT32" in network._errors()[0]
    layer.set_output_type(0, trt.bfloat16)
    assert network._errors() == []


def test_types_of_tensors_can_be_set():
    network = new_network(strongly_typed=False)
    x = add_input(network, (2,))
    y = network.add_activation(x, trt.ActivationType.RELU).get_output(0)
    y.dtype = trt.float16
    assert y.dtype == trt.float16 and errors_of(network) == []
    y.dtype = trt.int32
    assert y.dtype == trt.float16 and "INT32" in errors_of(network)[0]
    x.dtype = trt.bfloat16
    assert x.dtype == trt.bfloat16 and y.dtype == trt.float16
    with pytest.raises(TypeError):
        x.dtype = np.float32


def test_retyping_an_input_reaches_what_follows():
    network = new_network()
    x = add_input(network, (2,))
    layer = network.add_elementwise(x, x, trt.ElementWiseOperation.SUM)
    x.dtype = trt.float16
    assert layer.get_output(0).dtype == trt.float16


def test_compute_precision_of_a_normalization():
    network = new_network()
    x = add_input(network, (2, 2), trt.float16)
    layer = network.add_normalization(x, x, x, 2)
    assert layer.compute_precision == trt.float32
    layer.compute_precision = trt.float16
    layer.compute_precision = trt.bfloat16
    assert layer.compute_precision == trt.float16
    assert len(errors_of(network)) == 1
