"""Where plugins cut a network: no more segments than needed, none empty, and the numbers stay right around the cuts."""

import numpy as np
import onnx
import pytest
from sample_plugins import Bench, CircularPad, Extremes, GeluBias, circular_pad, gelu_bias, run

import trtllm_ext.embedded as trt
from trtllm_ext.lowering import PluginStep, lower

BUDGET_S = 6
NONE, TRANSPOSE = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
PLUS = trt.ElementWiseOperation.SUM
SIZES = {"x": ((1, 4), (2, 4), (8, 4))}
RNG = np.random.default_rng(11)


def pad(before=0, after=1):
    return CircularPad(CircularPad.fields_of(before, after))


def constant(bench, array):
    return bench.network.add_constant(array.shape, array).get_output(0)


def add(bench, a, b):
    return bench.network.add_elementwise(a, b, PLUS).get_output(0)


def steps_of(bench):
    """The steps of a network as text: the operators of a segment, or `plugin`. Every segment is a valid model."""
    found = []
    for step in lower(bench.network, trt).steps:
        if isinstance(step, PluginStep):
            found.append("plugin")
            continue
        assert step.outputs and step.model.graph.node
        domains = {node.domain for node in step.model.graph.node}
        if domains == {""} and not step.weights:
            onnx.checker.check_model(step.model, full_check=True)
        found.append([node.op_type for node in step.model.graph.node])
    return found


def test_parallel_branches_share_their_segments():
    # Four branches, each relu, plugin, relu, plugin, relu: three segments, not twelve.
    bench = Bench()
    x = bench.input("x", (-1, 4))
    for index in range(4):
        y = x
        for _ in range(2):
            (y,) = bench.plugin(pad(), bench.relu(y))
        bench.output(bench.relu(y), f"y{index}")
    assert steps_of(bench) == [
        ["Relu"] * 4, *["plugin"] * 4, ["Relu"] * 4, *["plugin"] * 4, ["Relu"] * 4,
    ]  # fmt: skip


def test_a_layer_beside_a_plugin_does_not_wait_for_it():
    bench = Bench()
    x = bench.input("x", (-1, 4))
    (y,) = bench.plugin(pad(), bench.relu(x))
    bench.output(y, "y")
    bench.output(bench.network.add_unary(x, trt.UnaryOperation.NEG).get_output(0), "z")
    first, plugin = steps_of(bench)
    assert sorted(first) == ["Neg", "Relu"] and plugin == "plugin"


def test_no_segment_without_anything_to_do():
    bench = Bench()
    x = bench.input("x", (-1, 4))
    # Layers that vanish in the lowering: nothing is left to compute before, between and behind the plugins.
    same = bench.network.add_identity(x).get_output(0)
    (y,) = bench.plugin(pad(), same)
    (z,) = bench.plugin(pad(), bench.network.add_identity(y).get_output(0))
    bench.output(z, "z")
    assert steps_of(bench) == ["plugin", "plugin"]
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    want = circular_pad(circular_pad(x, (0, 1)), (0, 1))
    np.testing.assert_array_equal(run(bench.context(bench.build(SIZES), CircularPad), {"x": x})["z"], want)


def test_what_is_computed_from_constants_never_crosses():
    bench, scale = Bench(), RNG.standard_normal((1, 4)).astype(np.float16)
    wide = bench.network.add_cast(constant(bench, scale), trt.float32).get_output(0)
    x = add(bench, bench.input("x", (-1, 4)), wide)
    (y,) = bench.plugin(GeluBias(), x, bench.input("bias", (1, 4)))
    bench.output(add(bench, y, wide), "y")
    lowered = lower(bench.network, trt).steps
    assert [step.inputs for step in lowered] == [
        ("x",),
        (lowered[0].outputs[0], "bias"),
        (lowered[1].outputs[0],),
    ]
    x, bias = RNG.standard_normal((2, 4)).astype(np.float32), np.zeros((1, 4), np.float32)
    got = run(bench.context(bench.build(SIZES), GeluBias), {"x": x, "bias": bias})["y"]
    np.testing.assert_allclose(got, gelu_bias(x + scale, bias) + scale, rtol=1e-5, atol=1e-6)


def test_a_shape_taken_before_a_cut_is_used_behind_it():
    bench = Bench()
    x = bench.input("x", (-1, 4))
    shape = bench.network.add_shape(x).get_output(0)
    (y,) = bench.plugin(pad(2, 2), bench.relu(x))
    flat = bench.network.add_shuffle(y)
    rest = constant(bench, np.array([-1], np.int64))
    rows = bench.network.add_slice(shape, (0,), (1,), (1,)).get_output(0)
    flat.set_input(1, bench.network.add_concatenation([rest, rows]).get_output(0))
    bench.output(flat.get_output(0), "y")
    context = bench.context(bench.build(SIZES), CircularPad)
    for rows in (2, 5):
        x = RNG.standard_normal((rows, 4)).astype(np.float32)
        want = circular_pad(np.maximum(x, 0), (2, 2)).reshape(-1, rows)
        np.testing.assert_array_equal(run(context, {"x": x})["y"], want)


@pytest.mark.parametrize("through_identity", [False, True])
def test_a_product_that_a_plugin_reads_is_not_merged_with_its_bias(through_identity):
    # Bias and product become one Gemm where nothing else sees the product.
    bench, weight = Bench(), RNG.standard_normal((4, 4)).astype(np.float32)
    bias = RNG.standard_normal((1, 4)).astype(np.float32)
    x = bench.input("x", (-1, 4))
    product = bench.network.add_matrix_multiply(x, NONE, constant(bench, weight), TRANSPOSE).get_output(0)
    (padded,) = bench.plugin(pad(), product)
    if through_identity:
        product = bench.network.add_identity(product).get_output(0)
    bench.output(add(bench, product, constant(bench, bias)), "y")
    bench.output(padded, "z")
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    got = run(bench.context(bench.build(SIZES), CircularPad), {"x": x})
    np.testing.assert_allclose(got["y"], x @ weight.T + bias, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got["z"], circular_pad(x @ weight.T, (0, 1)), rtol=1e-5, atol=1e-5)


def test_one_tensor_is_output_plugin_input_and_segment_input():
    bench = Bench()
    x = bench.relu(bench.input("x", (-1, 4)))
    bench.output(x, "h")
    (y,) = bench.plugin(GeluBias(), x, x)
    bench.output(add(bench, y, x), "y")
    x = RNG.standard_normal((1, 4)).astype(np.float32)
    got, h = run(bench.context(bench.build(SIZES), GeluBias), {"x": x}), np.maximum(x, 0)
    np.testing.assert_array_equal(got["h"], h)
    np.testing.assert_allclose(got["y"], gelu_bias(h, h) + h, rtol=1e-6)


def test_names_that_several_layers_share_do_not_meet():
    bench = Bench()
    x, last = bench.input("x", (-1, 4)), None
    for _ in range(3):
        hidden = bench.relu(x)
        hidden.name = "hidden"
        (last,) = bench.plugin(pad(), hidden)
        last.name = "padded"
        x = last
    bench.output(add(bench, last, last), "y")
    context = bench.context(bench.build({"x": ((1, 4), (2, 4), (8, 4))}), CircularPad)
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    want = x
    for _ in range(3):
        want = circular_pad(np.maximum(want, 0), (0, 1))
    np.testing.assert_array_equal(run(context, {"x": x})["y"], want + want)


def test_outputs_that_nobody_reads():
    bench = Bench()
    x = bench.input("x", (-1, 4))
    _, high, _ = bench.plugin(Extremes(), bench.relu(x))
    bench.output(high, "high")
    unused = bench.plugin(pad(), x)
    assert unused is not None
    assert steps_of(bench) == [["Relu"], "plugin"]
    plan = bench.build(SIZES)
    x = RNG.standard_normal((3, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        run(bench.context(plan, Extremes), {"x": x})["high"], np.maximum(x, 0).max(1)
    )


def test_a_loop_beside_plugins_stays_whole():
    bench = Bench()
    (x,) = bench.plugin(pad(), bench.input("x", (-1, 4)))
    loop = bench.network.add_loop()
    loop.add_trip_limit(constant(bench, np.array(3, np.int32)), trt.TripLimit.COUNT)
    state = loop.add_recurrence(x)
    state.set_input(1, add(bench, state.get_output(0), x))
    result = loop.add_loop_output(state.get_output(0), trt.LoopOutput.LAST_VALUE).get_output(0)
    (y,) = bench.plugin(pad(), result)
    bench.output(y, "y")
    assert [step == "plugin" for step in steps_of(bench)] == [True, False, True]
    x = RNG.standard_normal((2, 4)).astype(np.float32)
    got = run(bench.context(bench.build(SIZES), CircularPad), {"x": x})["y"]
    np.testing.assert_allclose(got, circular_pad(4 * circular_pad(x, (0, 1)), (0, 1)), rtol=1e-6)


def test_many_plugins_in_a_row_are_lowered_in_linear_time():
    bench = Bench()
    y = bench.input("x", (1, 1))
    bias = constant(bench, np.zeros((1, 1), np.float32))
    for _ in range(150):
        (y,) = bench.plugin(GeluBias(), bench.relu(y), bias)
    bench.output(y, "y")
    steps = steps_of(bench)
    assert steps.count("plugin") == 150 and len(steps) == 300
