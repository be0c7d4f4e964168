"""Plugins written in Python run as steps of a plan: their numbers, what they are told, what lies around them."""

import threading
import typing

import numpy as np
import pytest
from sample_plugins import (
    Bench,
    CircularPad,
    Creator,
    Extremes,
    GeluBias,
    NonZero,
    NumpyPlugin,
    Repeat,
    array_at,
    circular_pad,
    gelu_bias,
    run,
)

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.types import storage_dtype

BUDGET_S = 6
RNG = np.random.default_rng(3)
PADS = (1, 2, 0, 3)


def random(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def test_a_plugin_alone_is_a_whole_engine():
    bench = Bench()
    x = bench.input("x", (2, -1, 4))
    (y,) = bench.plugin(CircularPad(CircularPad.fields_of(*PADS)), x)
    assert tuple(y.shape) == (2, -1, 7)
    bench.output(y, "y")
    context = bench.context(bench.build({"x": ((2, 1, 4), (2, 3, 4), (2, 9, 4))}), CircularPad)
    for length in (3, 3, 5, 9):
        x = random(2, length, 4)
        np.testing.assert_array_equal(run(context, {"x": x})["y"], circular_pad(x, PADS))
    assert context.engine.num_layers == 1


@pytest.mark.parametrize("dtype", [trt.float32, trt.float16, trt.bfloat16], ids=lambda dtype: dtype.name)
def test_narrow_types_cross_the_cuts_as_they_are(dtype):
    bench, storage = Bench(), storage_dtype(dtype)
    x, bias = bench.input("x", (-1, 8), dtype), bench.input("bias", (1, 8), dtype)
    (y,) = bench.plugin(GeluBias(), bench.relu(x), bias)
    bench.output(bench.relu(y), "y")
    context = bench.context(bench.build({"x": ((0, 8), (4, 8), (16, 8))}), GeluBias)
    for rows in (1, 7, 0):
        x, bias = random(rows, 8, dtype=storage), random(1, 8, dtype=storage)
        want = np.maximum(gelu_bias(np.maximum(x, storage.type(0)), bias).astype(storage), storage.type(0))
        got = run(context, {"x": x, "bias": bias})["y"]
        assert got.dtype == storage
        np.testing.assert_array_equal(got, want)


def test_several_outputs_of_several_types():
    bench = Bench()
    low, high, place = bench.plugin(Extremes(), bench.relu(bench.input("x", (-1, 5))))
    bench.output(low, "low")
    bench.output(bench.network.add_elementwise(low, high, trt.ElementWiseOperation.SUM).get_output(0), "sum")
    bench.output(place, "place")
    context = bench.context(bench.build({"x": ((1, 5), (4, 5), (8, 5))}), Extremes)
    x = random(6, 5)
    got, positive = run(context, {"x": x}), np.maximum(x, 0)
    np.testing.assert_array_equal(got["low"], positive.min(1))
    np.testing.assert_array_equal(got["sum"], positive.min(1) + positive.max(1))
    np.testing.assert_array_equal(got["place"], positive.argmax(1))


def test_a_chain_of_plugins_with_branches_around_it():
    # A network input that a plugin reads, plugins one after another, values that live across several cuts, an output
    # of the network that other steps read.
    bench = Bench()
    x = bench.input("x", (-1, 4))
    doubled = bench.network.add_elementwise(x, x, trt.ElementWiseOperation.SUM).get_output(0)
    wide = CircularPad(CircularPad.fields_of(1, 0))
    (a,) = bench.plugin(wide, x)
    (b,) = bench.plugin(wide, a)
    bench.output(b, "b")
    c = bench.relu(b)
    (d,) = bench.plugin(wide, c)
    parts = bench.network.add_concatenation([d, doubled, b])
    parts.axis = 1
    bench.output(parts.get_output(0), "y")
    context = bench.context(bench.build({"x": ((1, 4), (2, 4), (8, 4))}), CircularPad)
    for rows in (2, 5, 2):
        x = random(rows, 4)
        b = circular_pad(circular_pad(x, (1, 0)), (1, 0))
        d = circular_pad(np.maximum(b, 0), (1, 0))
        got = run(context, {"x": x})
        np.testing.assert_array_equal(got["b"], b)
        np.testing.assert_array_equal(got["y"], np.concatenate([d, x + x, b], 1))


def test_constants_reach_plugins_and_outputs():
    bench, weights = Bench(), random(1, 600)
    bias = bench.network.add_constant(weights.shape, weights).get_output(0)
    small = bench.network.add_constant((1, 3), np.float32([[1, 2, 3]])).get_output(0)
    (y,) = bench.plugin(GeluBias(), bench.input("x", (2, 600)), bench.relu(bias))
    bench.output(y, "y")
    bench.output(bench.plugin(CircularPad(CircularPad.fields_of(0, 1)), small)[0], "z")
    bench.output(bench.relu(small), "small")
    context = bench.context(bench.build(), GeluBias, CircularPad)
    x = random(2, 600)
    got = run(context, {"x": x})
    np.testing.assert_array_equal(got["y"], gelu_bias(x, np.maximum(weights, 0)).astype(np.float32))
    np.testing.assert_array_equal(got["z"], [[1, 2, 3, 1]])
    np.testing.assert_array_equal(got["small"], [[1, 2, 3]])


def test_weights_used_before_and_after_a_cut_are_stored_once():
    bench, weights = Bench(), random(64, 64)
    none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE

    def product(tensor):
        constant = bench.network.add_constant(weights.shape, weights).get_output(0)
        return bench.network.add_matrix_multiply(tensor, none, constant, transpose).get_output(0)

    bias = bench.network.add_constant((1, 64), np.zeros((1, 64), np.float32)).get_output(0)
    (h,) = bench.plugin(GeluBias(), product(bench.input("x", (2, 64))), bias)
    bench.output(product(h), "y")
    plan = bench.build()
    assert weights.nbytes < plan.nbytes < 2 * weights.nbytes
    x = random(2, 64)
    want = gelu_bias(x @ weights.T, np.zeros((1, 64))) @ weights.T
    np.testing.assert_allclose(run(bench.context(plan, GeluBias), {"x": x})["y"], want, rtol=1e-4, atol=1e-4)


# Shapes that depend on data or on values


def nonzero_bench(after=False):
    bench = Bench()
    x = bench.input("x", (-1, -1))
    found, count = bench.plugin(NonZero(), bench.relu(x))
    assert tuple(found.shape) == (-1, 2) and tuple(count.shape) == ()
    if after:
        plus = trt.ElementWiseOperation.SUM
        found = bench.network.add_elementwise(found, found, plus).get_output(0)
    bench.output(found, "found")
    bench.output(count, "count")
    return bench, bench.build({"x": ((1, 1), (3, 4), (9, 9))})


@pytest.mark.parametrize("after", [False, True], ids=["output", "read by a segment"])
def test_a_size_tensor_makes_an_output_depend_on_data(after):
    bench, plan = nonzero_bench(after)
    context = bench.context(plan, NonZero)
    for shape in ((3, 4), (9, 9), (1, 1), (2, 3)):
        x = RNG.integers(-2, 2, shape).astype(np.float32)
        got = run(context, {"x": x}, late=("found",))
        want = np.argwhere(x > 0)
        assert got["count"] == len(want)
        np.testing.assert_array_equal(got["found"], want * (2 if after else 1))


def test_an_output_that_depends_on_data_needs_an_allocator():
    bench, plan = nonzero_bench()
    context, x, count = bench.context(plan, NonZero), np.ones((2, 2), np.float32), np.zeros((), np.int32)
    context.set_input_shape("x", x.shape)
    context.set_tensor_address("x", x.ctypes.data)
    context.set_tensor_address("count", count.ctypes.data)
    assert tuple(context.get_tensor_shape("found")) == (-1, 2)
    assert not context.execute_async_v3(0)
    assert "the size of output 'found' depends on data" in bench.log.last


def test_a_plugin_that_reads_what_depends_on_data():
    bench = Bench()
    found, _ = bench.plugin(NonZero(), bench.input("x", (-1, -1)))
    floats = bench.network.add_cast(found, trt.float32).get_output(0)
    (padded,) = bench.plugin(CircularPad(CircularPad.fields_of(0, 1)), floats)
    bench.output(padded, "y")
    context = bench.context(bench.build({"x": ((1, 1), (3, 4), (9, 9))}), NonZero, CircularPad)
    x = np.eye(3, 4, dtype=np.float32)
    want = circular_pad(np.argwhere(x).astype(np.float32), (0, 1))
    np.testing.assert_array_equal(run(context, {"x": x}, late=("y",))["y"], want)


def test_values_of_shape_inputs_decide_shapes():
    bench = Bench()
    x, times = bench.input("x", (-1, 2)), bench.input("times", (2,), trt.int32)
    (y,) = bench.plugin(Repeat(), x, shape_inputs=[times])
    assert tuple(y.shape) == (-1, -1)
    bench.output(y, "y")
    plan = bench.build({"x": ((1, 2), (2, 2), (4, 2))}, {"times": ((1, 1), (2, 2), (3, 3))})
    context = bench.context(plan, Repeat)
    assert context.engine.is_shape_inference_io("times")
    for rows, times in ((2, (3, 1)), (2, (1, 3)), (4, (2, 2))):
        x, given = random(rows, 2), np.array(times, np.int32)
        context.set_tensor_address("times", given.ctypes.data)
        np.testing.assert_array_equal(run(context, {"x": x, "times": given})["y"], np.tile(x, times))


def test_a_shape_input_of_known_value_makes_a_known_shape():
    bench = Bench()
    times = bench.network.add_constant((2,), np.array([2, 3], np.int64)).get_output(0)
    (y,) = bench.plugin(Repeat(), bench.input("x", (4, 2)), shape_inputs=[times])
    assert tuple(y.shape) == (8, 6)
    bench.output(y, "y")
    x = random(4, 2)
    np.testing.assert_array_equal(
        run(bench.context(bench.build(), Repeat), {"x": x})["y"], np.tile(x, (2, 3))
    )


# What a plugin is told


class Curious(NumpyPlugin):
    """Wants a workspace and a tactic, and keeps what it is told at run time."""

    seen: typing.ClassVar = []

    def get_valid_tactics(self):
        return [7, 9]

    def get_workspace_size(self, inp, out):
        return 4 * int(np.prod(inp[0].max)) + 1

    def get_fields_to_serialize(self):
        return trt.PluginFieldCollection([])

    def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
        scratch = array_at(workspace, input_desc[0])
        scratch[...] = array_at(inputs[0], input_desc[0])
        array_at(outputs[0], output_desc[0])[...] = scratch[::-1]
        self.seen.append((self.phase, self.tactic, list(self.told), stream))


def test_what_a_plugin_is_told_during_a_build():
    bench, plugin = Bench(), CircularPad(CircularPad.fields_of(0, 2))
    layer = bench.network.add_plugin_v3([bench.input("x", (-1, 4))], [], plugin)
    assert isinstance(layer.plugin, CircularPad) and layer.plugin is not plugin
    assert layer.num_inputs == 1 and layer.type == trt.LayerType.PLUGIN_V3
    bench.output(layer.get_output(0), "y")
    told = []
    layer.plugin.clone = lambda: _telling(plugin, told)
    assert bench.build({"x": ((1, 4), (2, 4), (8, 4))}) is not None
    kinds = [kind for kind, *_ in told]
    assert kinds == ["configure", "shapes"]
    (given,), (made,) = told[0][1:]
    assert given.desc.dims == (-1, 4) and made.desc.dims == (-1, 6)
    assert (given.min, given.opt, given.max) == ((1, 4), (2, 4), (8, 4))
    assert (made.min, made.max) == ((1, 6), (8, 6))
    assert given.desc.type == trt.float32 and given.desc.format == trt.TensorFormat.LINEAR
    assert told[1][1:] == ([(2, 4)], [(2, 6)])


def _telling(plugin, told):
    clone = plugin.clone()
    clone.told = told
    return clone


def test_workspace_tactic_phase_stream_and_shape_changes():
    bench = Bench()
    (y,) = bench.plugin(Curious(), bench.input("x", (-1, 3)))
    bench.output(y, "y")
    context = bench.context(bench.build({"x": ((1, 3), (2, 3), (8, 3))}), Curious)
    Curious.seen.clear()
    for rows in (2, 2, 8):
        x = random(rows, 3)
        np.testing.assert_array_equal(run(context, {"x": x})["y"], x[::-1])
    assert context.execute_async_v3(12345)
    phases, tactics, told, streams = zip(*Curious.seen, strict=True)
    assert set(phases) == {trt.TensorRTPhase.RUNTIME} and set(tactics) == {7}
    assert streams == (0, 0, 0, 12345)
    assert told[-1] == [("shapes", [(2, 3)], [(2, 3)]), ("shapes", [(8, 3)], [(8, 3)])]


class InPlace(NumpyPlugin, trt.IPluginV3OneBuildV2):
    """Adds 1 to its input, in whose memory its output is."""

    def get_aliased_input(self, output_index):
        return 0

    def enqueue(self, input_desc, output_desc, inputs, outputs, workspace, stream):
        assert inputs == outputs
        array_at(inputs[0], input_desc[0])[...] += 1


def test_an_output_in_the_memory_of_an_input():
    bench = Bench()
    x = bench.input("x", (2, 3))
    (y,) = bench.plugin(InPlace(), x)
    bench.output(bench.network.add_elementwise(y, x, trt.ElementWiseOperation.SUM).get_output(0), "y")
    config = bench.builder.create_builder_config()
    config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    plan = bench.builder.build_serialized_network(bench.network, config)
    x = random(2, 3)
    np.testing.assert_array_equal(run(bench.context(plan, InPlace), {"x": x})["y"], x + (x + 1))


# Contexts and threads


def test_each_context_has_a_plugin_of_its_own_and_threads_do_not_mix():
    bench = Bench()
    x = bench.input("x", (-1, 8))
    (y,) = bench.plugin(CircularPad(CircularPad.fields_of(2, 1)), bench.relu(x))
    bench.output(bench.relu(y), "y")
    creator = Creator(CircularPad)
    engine = bench.load(bench.build({"x": ((1, 8), (8, 8), (64, 8))}), creator)
    assert [phase for _, phase in creator.made] == [trt.TensorRTPhase.RUNTIME]
    contexts = [engine.create_execution_context() for _ in range(4)]
    plugins = {id(context._execution._calls[1]._handle.plugin) for context in contexts}
    assert len(plugins) == 4
    failures = []

    def work(number, context):
        rng = np.random.default_rng(number)
        for rows in rng.integers(1, 64, 20):
            x = rng.standard_normal((rows, 8)).astype(np.float32)
            if not np.array_equal(run(context, {"x": x})["y"], circular_pad(np.maximum(x, 0), (2, 1))):
                failures.append((number, rows))

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(contexts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_plugins_are_told_when_they_are_not_used_any_more():
    gone = []

    class Mortal(CircularPad):
        def destroy(self):
            gone.append(self.phase)

    bench = Bench()
    bench.output(bench.plugin(Mortal(CircularPad.fields_of(1, 1)), bench.input("x", (1, 2)))[0], "y")
    plan = bench.build()
    del bench.network
    engine = bench.load(plan, Creator(Mortal))
    gone.clear()
    context = engine.create_execution_context()
    del context
    assert gone == [trt.TensorRTPhase.RUNTIME]
    del engine
    assert gone == [trt.TensorRTPhase.RUNTIME] * 2
