"""What the lowering does with a whole network: order, names, constants, refusals, fusion."""

import ctypes

import ml_dtypes
import numpy as np
import onnx
import pytest
from lowered_net import Net, optimized_ops, run_segment, same_bits, self_contained, session_of

from trtllm_ext.errors import BuildError
from trtllm_ext.lowering import WEIGHTS_LOCATION, LoweringError, supported_kinds

BUDGET_S = 15


def linear(net, x, weight, bias):
    operations = net.trt.MatrixOperation
    product = net.op("matrix_multiply", x, operations.NONE, weight, operations.TRANSPOSE)
    return net.op("elementwise", product, bias, net.trt.ElementWiseOperation.SUM)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * np.float32(0.1)


# Order and names


def test_execution_order_is_not_creation_order():
    net = Net()
    x = net.input("a", "FLOAT", (3,))
    early = net.network.add_activation(x, net.trt.ActivationType.RELU)
    late = net.op("unary", x, net.trt.UnaryOperation.NEG)
    early.set_input(0, late)
    net.mark(early.get_output(0))
    same_bits(net.run({"a": np.array([-1, 3, 2], np.float32)})["y"], np.array([1, 0, 0], np.float32))


def test_a_cycle_is_named():
    net = Net()
    x = net.input("a", "FLOAT", (3,))
    first = net.network.add_unary(x, net.trt.UnaryOperation.NEG)
    second = net.network.add_unary(first.get_output(0), net.trt.UnaryOperation.ABS)
    net.mark(second.get_output(0))
    first.name, second.name = "first", "second"
    first.set_input(0, second.get_output(0))
    with pytest.raises(LoweringError, match=r"'(first|second)' and '(first|second)' lie on a cycle"):
        net.lower()


def test_a_long_chain_is_not_a_deep_recursion():
    net = Net()
    x = net.input("a", "FLOAT", (1,))
    for _ in range(3000):
        x = net.op("unary", x, net.trt.UnaryOperation.NEG)
    net.mark(x)
    assert len(net.segment().model.graph.node) == 3000


def test_layers_that_no_output_needs_are_left_out():
    net = Net()
    x = net.input("a", "FLOAT", (3,))
    net.op("unary", x, net.trt.UnaryOperation.EXP)
    net.mark(net.op("unary", x, net.trt.UnaryOperation.NEG))
    assert [node.op_type for node in net.segment().model.graph.node] == ["Neg"]


def test_values_are_named_after_tensors_and_inputs_after_dimensions():
    net = Net()
    x = net.input("tokens", "FLOAT", (-1, 3))
    x.set_dimension_name(0, "num_tokens")
    hidden = net.op("unary", x, net.trt.UnaryOperation.NEG)
    hidden.name = "hidden"
    net.mark(net.op("unary", hidden, net.trt.UnaryOperation.ABS), "out")
    segment = net.segment()
    assert [list(node.output) for node in segment.model.graph.node] == [["hidden"], ["out"]]
    assert segment.inputs == ("tokens",) and segment.outputs == ("out",)
    assert segment.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "num_tokens"


def test_equal_tensor_names_inside_do_not_clash():
    net = Net()
    x = net.input("a", "FLOAT", (3,))
    one = net.op("unary", x, net.trt.UnaryOperation.NEG)
    two = net.op("unary", one, net.trt.UnaryOperation.ABS)
    one.name = two.name = "same"
    net.mark(net.op("elementwise", one, two, net.trt.ElementWiseOperation.SUM))
    same_bits(net.run({"a": np.array([1, -2, 3], np.float32)})["y"], np.array([0, 4, 0], np.float32))


# Constants


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int64])
def test_large_constants_are_borrowed_and_small_ones_are_inside(dtype):
    large, small = np.ones((64, 64), dtype), np.ones((1, 8), dtype)
    net = Net()
    net.mark(net.constant(large), "large")
    net.mark(net.constant(small), "small")
    segment = net.segment()
    (weight,) = segment.weights
    assert weight.shape == (64, 64) and weight.data.dtype == np.uint8 and weight.data.ndim == 1
    assert weight.data.ctypes.data == large.ctypes.data and weight.data.nbytes == large.nbytes
    (external,) = [t for t in segment.model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    entries = {entry.key: entry.value for entry in external.external_data}
    assert external.name == weight.name
    assert entries == {"location": WEIGHTS_LOCATION, "length": str(large.nbytes)}
    got = run_segment(segment, {})
    same_bits(got["large"], large)
    same_bits(got["small"], small)


def test_weights_by_address_are_read_when_lowered():
    buffer = (ctypes.c_float * 1024)()
    net = Net()
    weights = net.trt.Weights(net.trt.float32, ctypes.addressof(buffer), 1024)
    net.mark(net.op("constant", (1024,), weights))
    buffer[7] = 3.0
    segment = net.segment()
    assert segment.weights[0].data.ctypes.data == ctypes.addressof(buffer)
    assert run_segment(segment, {})["y"][7] == 3.0


def test_tied_weights_are_stored_once():
    table = random(64, 32)
    net = Net()
    tokens = net.input("tokens", "INT32", (-1,))
    hidden = net.op("gather", net.constant(table), tokens, 0)
    operations = net.trt.MatrixOperation
    again = net.constant(table)
    net.mark(net.op("matrix_multiply", hidden, operations.NONE, again, operations.TRANSPOSE))
    assert len(net.segment().weights) == 1
    got = net.run({"tokens": np.array([3, 5], np.int32)})["y"]
    np.testing.assert_allclose(got, table[[3, 5]] @ table.T, rtol=1e-5, atol=1e-6)


def test_tied_weights_in_two_shapes_are_stored_once():
    table = random(512)
    net = Net()
    net.mark(net.op("identity", net.constant(table)), "flat")
    net.mark(net.op("shuffle", net.constant(table), reshape_dims=(1, 2, 256)), "folded")
    assert len(net.segment().weights) == 1
    got = net.run({})
    same_bits(got["flat"], table)
    same_bits(got["folded"], table.reshape(1, 2, 256))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_norm_scale_reshaped_in_the_network_is_a_plain_initializer(dtype):
    hidden = 512
    scale, bias = random(hidden).astype(dtype), random(hidden, seed=1).astype(dtype)
    net = Net()
    x = net.input(
        "a",
        {2: "HALF", 4: "FLOAT"}[np.dtype(dtype).itemsize] if dtype != ml_dtypes.bfloat16 else "BF16",
        (-1, 4, hidden),
    )
    s, b = (net.op("shuffle", net.constant(array), reshape_dims=(1, 1, hidden)) for array in (scale, bias))
    net.mark(net.op("normalization", x, s, b, 0b100))
    segment = net.segment()
    (norm,) = [node for node in segment.model.graph.node if node.op_type == "LayerNormalization"]
    shapes = {tensor.name: tuple(tensor.dims) for tensor in segment.model.graph.initializer}
    assert [shapes[name] for name in norm.input[1:]] == [(hidden,), (hidden,)]
    assert not [node for node in segment.model.graph.node if node.op_type == "Reshape"]


def test_weights_stay_as_they_are_stored():
    net = Net()
    weight = random(64, 32)
    leading = net.op("shuffle", net.constant(weight), reshape_dims=(1, 64, 32))
    operations = net.trt.MatrixOperation
    x = net.input("a", "FLOAT", (-1, 5, 32))
    net.mark(net.op("matrix_multiply", x, operations.NONE, leading, operations.TRANSPOSE))
    segment = net.segment()
    (node,) = segment.model.graph.node
    assert node.op_type == "FusedMatMul" and segment.weights[0].shape == (64, 32)
    assert segment.weights[0].data.ctypes.data == weight.ctypes.data


def test_count_of_weights_must_fit():
    net = Net()
    net.mark(net.constant(random(8)))
    net.network.get_layer(0).shape = (3,)
    with pytest.raises(BuildError, match="but there are 8 elements"):
        net.lower()


# Refusals


def test_unsupported_layers_and_operations_are_named():
    net = Net()
    layer = net.network.add_fill((3,), net.trt.FillOperation.RANDOM_UNIFORM, net.trt.float32)
    layer.name = "noise"
    net.mark(layer.get_output(0))
    with pytest.raises(LoweringError, match=r"'noise'.*RANDOM_UNIFORM is not supported"):
        net.lower()


def test_unsupported_kinds_are_named():
    from trtllm_ext.lowering.registry import lowering_of

    with pytest.raises(LoweringError, match=r"'norm1'.*kind LRN.*ACTIVATION"):
        lowering_of("LRN", "norm1")
    assert "MATRIX_MULTIPLY" in supported_kinds()


def test_unsupported_types_are_named():
    net = Net()
    net.mark(net.op("identity", net.network.add_input("a", net.trt.uint8, (3,))))
    with pytest.raises(LoweringError, match=r"'a'.*UINT8.*FLOAT, HALF, BF16"):
        net.lower()


# Fusion

HIDDEN, HEADS, FFN = 32, 4, 128


def attention(net, x, name, scale_first=True):
    ops, matrix = net.trt.ElementWiseOperation, net.trt.MatrixOperation
    bias = net.constant(random(1, 1, 3 * HIDDEN))
    qkv = linear(net, x, net.constant(random(1, 3 * HIDDEN, HIDDEN)), bias)
    heads = []
    for part in range(3):
        # Dynamic sizes as TensorRT-LLM's split has them: batch and length come from the shape of the input.
        shape = net.op("shape", qkv)
        first = net.op("slice", shape, (0,), (2,), (1,))
        size = net.op("concatenation", [first, net.constant(np.array([HIDDEN]))])
        layer = net.network.add_slice(qkv, (0, 0, part * HIDDEN), (1, 1, HIDDEN), (1, 1, 1))
        layer.set_input(2, size)
        view = net.op("shuffle", layer.get_output(0), reshape_dims=(0, 0, HEADS, HIDDEN // HEADS))
        heads.append(net.op("shuffle", view, first_transpose=net.trt.Permutation([0, 2, 1, 3])))
    q, k, v = heads
    scores = net.op("matrix_multiply", q, matrix.NONE, k, matrix.TRANSPOSE)
    scale = net.constant(np.full((1, 1, 1, 1), (HIDDEN // HEADS) ** -0.5, np.float32))
    scores = net.op("elementwise", scores, scale, ops.PROD)
    context = net.op("matrix_multiply", net.op("softmax", scores, axes=8), matrix.NONE, v, matrix.NONE)
    layer = net.network.add_shuffle(context)
    layer.first_transpose = net.trt.Permutation([0, 2, 1, 3])
    layer.reshape_dims = (0, 0, HIDDEN)
    return linear(
        net, layer.get_output(0), net.constant(random(1, HIDDEN, HIDDEN)), net.constant(random(1, 1, HIDDEN))
    )


def encoder_layer(net, x):
    ops = net.trt.ElementWiseOperation

    def norm(value):
        scale, bias = net.constant(random(1, 1, HIDDEN)), net.constant(random(1, 1, HIDDEN))
        return net.op("normalization", value, scale, bias, 0b100, epsilon=1e-12)

    x = norm(net.op("elementwise", attention(net, x, "attention"), x, ops.SUM))
    y = linear(net, x, net.constant(random(1, FFN, HIDDEN)), net.constant(random(1, 1, FFN)))
    y = net.op("activation", y, net.trt.ActivationType.GELU_ERF)
    y = linear(net, y, net.constant(random(1, HIDDEN, FFN)), net.constant(random(1, 1, HIDDEN)))
    return norm(net.op("elementwise", y, x, ops.SUM))


def test_encoder_layers_fuse(tmp_path):
    net = Net()
    x = net.input("a", "FLOAT", (-1, -1, HIDDEN))
    for _ in range(2):
        x = encoder_layer(net, x)
    net.mark(x)
    segment = net.segment()
    counts = optimized_ops(segment, tmp_path)
    assert counts["SkipLayerNormalization"] == 4
    assert counts["BiasGelu"] == 2
    assert counts["LayerNormalization"] == counts["Gelu"] == counts["Mul"] == 0
    assert counts["Add"] == 2, "only the bias of the fused projection of q, k and v"
    assert counts["Shape"] == counts["Concat"] == 0, "no shape arithmetic is left"
    a = random(2, 7, HIDDEN)
    fused = run_segment(segment, {"a": a})["y"]
    np.testing.assert_allclose(
        fused, run_segment(segment, {"a": a}, "DISABLE_ALL")["y"], rtol=1e-4, atol=1e-5
    )


def test_lengths_are_followed_from_the_inputs(tmp_path):
    """Positions cut to the length of the tokens: the residual stream keeps its shape's names, so norms fuse."""
    net = Net()
    tokens, kinds = net.input("tokens", "INT32", (-1, -1)), net.input("kinds", "INT32", (-1, -1))
    for tensor in (tokens, kinds):
        tensor.set_dimension_name(0, "batch")
        tensor.set_dimension_name(1, "length")
    ops = net.trt.ElementWiseOperation
    words = net.op("gather", net.constant(random(50, HIDDEN)), tokens, 0)
    words = net.op("elementwise", words, net.op("gather", net.constant(random(2, HIDDEN)), kinds, 0), ops.SUM)
    length = net.op("gather", net.op("shape", tokens), net.constant(np.array([1], np.int32)), 0)
    layer = net.network.add_slice(net.constant(random(1, 20, HIDDEN)), (0, 0, 0), (1, 1, HIDDEN), (1, 1, 1))
    one, hidden = net.constant(np.array([1])), net.constant(np.array([HIDDEN]))
    layer.set_input(2, net.op("concatenation", [one, length, hidden]))
    x = net.op("elementwise", words, layer.get_output(0), ops.SUM)
    net.mark(encoder_layer(net, x))
    counts = optimized_ops(net.segment(), tmp_path)
    assert counts["SkipLayerNormalization"] == 2 and counts["BiasGelu"] == 1
    dims = net.segment().model.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["batch", "length", HIDDEN]


@pytest.mark.parametrize("name, expected", [("RELU", "FusedGemm"), ("GELU_ERF", "Gelu")])
def test_feed_forward_stack_of_packed_tokens_fuses(tmp_path, name, expected):
    net = Net()
    x = net.input("a", "FLOAT", (-1, HIDDEN))
    for _ in range(2):
        y = linear(net, x, net.constant(random(FFN, HIDDEN)), net.constant(random(1, FFN)))
        y = net.op("activation", y, getattr(net.trt.ActivationType, name))
        y = linear(net, y, net.constant(random(HIDDEN, FFN)), net.constant(random(1, HIDDEN)))
        x = net.op("elementwise", y, x, net.trt.ElementWiseOperation.SUM)
    net.mark(x)
    counts = optimized_ops(net.segment(), tmp_path)
    assert counts[expected] == 2
    assert counts["Gemm"] + counts["FusedGemm"] == 4
    assert counts["Add"] == 2, "the residuals"
    assert sum(counts.values()) == (6 if name == "RELU" else 8)


def test_models_load_in_every_session():
    net = Net()
    net.mark(encoder_layer(net, net.input("a", "FLOAT", (-1, -1, HIDDEN))))
    segment = net.segment()
    assert self_contained(segment).opset_import[0].version == 21
    for level in ("DISABLE_ALL", "BASIC", "EXTENDED", "ALL"):
        session_of(segment, level)


def test_a_name_given_to_a_dimension_is_never_another_inputs_length():
    net = Net()
    x, other = net.input("x", "FLOAT", (-1,)), net.input("other", "FLOAT", (-1,))
    other.set_dimension_name(0, "x.0")
    head = net.network.add_slice(other, (0,), (0,), (1,))
    head.set_input(2, net.op("shape", x))
    net.mark(net.op("reduce", head.get_output(0), net.trt.ReduceOperation.SUM, 1, True))
    assert net.run({"x": np.ones(2, np.float32), "other": np.ones(5, np.float32)})["y"].tolist() == [2]
    names = [info.type.tensor_type.shape.dim[0].dim_param for info in net.segment().model.graph.input]
    assert len(set(names)) == 2


def test_a_bias_of_a_product_may_be_a_weight_in_another_shape():
    bias = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((512, 8)).astype(np.float32)
    net = Net()
    x, none, turned = (
        net.input("x", "FLOAT", (-1, 8)),
        net.trt.MatrixOperation.NONE,
        net.trt.MatrixOperation.TRANSPOSE,
    )
    row, sum_of = net.constant(bias), net.trt.ElementWiseOperation.SUM
    net.mark(net.op("concatenation", [row, row]), "rows")
    product = net.op("matrix_multiply", x, none, net.constant(weight), turned)
    net.mark(net.op("elementwise", product, row, sum_of))
    a = np.ones((3, 8), np.float32)
    got = net.run({"x": a})
    np.testing.assert_allclose(got["y"], a @ weight.T + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got["rows"], np.concatenate([bias, bias]))


def test_a_tensor_without_a_name():
    net = Net()
    inner = net.op("unary", net.input("x", "FLOAT", (2,)), net.trt.UnaryOperation.NEG)
    inner.name = ""
    net.mark(net.op("unary", inner, net.trt.UnaryOperation.NEG))
    assert net.run({"x": np.array([1, 2], np.float32)})["y"].tolist() == [1, 2]


@pytest.mark.parametrize("also", ["output", "reader"])
def test_a_product_handed_through_an_identity_is_not_merged_with_its_bias_if_more_sees_it(also):
    rng = np.random.default_rng(5)
    a, w, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (4, 4), (1, 4)))
    net = Net()
    none = net.trt.MatrixOperation.NONE
    product = net.op("matrix_multiply", net.input("a", "FLOAT", (3, 4)), none, net.constant(w), none)
    same = net.op("identity", product)
    net.mark(net.op("elementwise", same, net.constant(bias), net.trt.ElementWiseOperation.SUM))
    net.mark(product if also == "output" else net.op("unary", product, net.trt.UnaryOperation.NEG), "seen")
    got = net.run({"a": a})
    np.testing.assert_allclose(got["y"], a @ w + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.abs(got["seen"]), np.abs(a @ w), rtol=1e-5, atol=1e-5)


def test_a_layer_whose_shape_the_library_cannot_tell_is_named():
    net = Net()
    x, y = net.input("x", "FLOAT", (2, 3)), net.input("y", "FLOAT", (5, 7))
    layer = net.network.add_elementwise(x, x, net.trt.ElementWiseOperation.SUM)
    layer.name = "total"
    net.mark(layer.get_output(0))
    layer.set_input(1, y)
    with pytest.raises(LoweringError, match=r"'total' .* the library cannot infer the shape of its output 0"):
        net.lower()
