"""Builders: what is refused and why, what goes into the plan, and where it is written."""

import json

import numpy as np
import pytest
from tiny_plans import FeedForward, config_with, context_of, run_context, strongly_typed

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan import read_plan

BUDGET_S = 15

SIZES = {"x": ((1, 16), (4, 16), (8, 16))}


def feed_forward(builder, **options):
    network = strongly_typed(builder)
    FeedForward(**options).define(network)
    return network


class Sink(trt.IStreamWriter):
    def __init__(self, room=1 << 30):
        super().__init__()
        self.pieces, self.room = [], room

    def write(self, data):
        taken = min(len(data), self.room)
        self.pieces.append(bytes(data[:taken]))
        self.room -= taken
        return taken


# Where the plan goes


def test_memory_and_stream_get_the_same_bytes(builder):
    config = config_with(builder, SIZES)
    network = feed_forward(builder)
    memory = builder.build_serialized_network(network, config)
    sink = Sink()
    assert builder.build_serialized_network_to_stream(network, config, sink) is True
    assert b"".join(sink.pieces) == bytes(memory)


def test_host_memory_has_the_buffer_protocol(builder, tmp_path):
    memory = builder.build_serialized_network(feed_forward(builder), config_with(builder, SIZES))
    assert isinstance(memory, trt.IHostMemory)
    assert memory.nbytes == len(memory) == len(memoryview(memory))
    assert memory.dtype == trt.int8
    path = tmp_path / "engine"
    with path.open("wb") as file:
        file.write(memory)
    assert path.stat().st_size == memory.nbytes
    assert bytearray(memory) == path.read_bytes()


def test_a_stream_that_is_full_fails_the_build(builder, log):
    sink = Sink(room=100)
    assert (
        builder.build_serialized_network_to_stream(feed_forward(builder), config_with(builder, SIZES), sink)
        is False
    )
    assert "the stream writer took" in log.last


def test_a_stream_that_raises_fails_the_build_with_its_reason(builder, log):
    class Broken(trt.IStreamWriter):
        def write(self, data):
            raise OSError(28, "No space left on device")

    assert not builder.build_serialized_network_to_stream(
        feed_forward(builder), config_with(builder, SIZES), Broken()
    )
    assert "No space left on device" in log.last


# Weights


def test_weights_are_read_at_the_build_not_before(builder, log):
    model = FeedForward()
    network = strongly_typed(builder)
    model.define(network)
    model.w1[:] = 0.5
    model.b1[:] = 1.0
    plan = builder.build_serialized_network(network, config_with(builder, SIZES))
    x = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)
    y = run_context(context_of(plan, log), {"x": x}, {"y": np.float32})["y"]
    np.testing.assert_allclose(y, model.run(x), rtol=1e-5, atol=1e-5)


def test_tied_weights_are_stored_once(builder):
    shared = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)

    def plan_of(second):
        network = strongly_typed(builder)
        h = network.add_input("x", trt.float32, (-1, 64))
        for weight in (shared, second):
            constant = network.add_constant(weight.shape, trt.Weights(weight)).get_output(0)
            h = network.add_matrix_multiply(
                h, trt.MatrixOperation.NONE, constant, trt.MatrixOperation.TRANSPOSE
            ).get_output(0)
        network.mark_output(h)
        return builder.build_serialized_network(
            network, config_with(builder, {"x": ((1, 64), (1, 64), (2, 64))})
        )

    tied, apart = plan_of(shared), plan_of(shared.copy())
    assert read_plan(memoryview(tied)).layout.weights_bytes == shared.nbytes
    assert read_plan(memoryview(apart)).layout.weights_bytes == 2 * shared.nbytes


# Profiles


def refused(builder, log, network, config):
    assert builder.build_serialized_network(network, config) is None
    assert log.last.startswith("build_serialized_network: ")
    return log.last


def test_a_dynamic_input_needs_a_profile(builder, log):
    reason = refused(builder, log, feed_forward(builder), builder.create_builder_config())
    assert "input 'x' has a dynamic shape (-1, 16), but no optimization profile has been defined" in reason


@pytest.mark.parametrize(
    "shapes, reason",
    [
        ({}, "profile 0 has no range for input 'x' of dynamic shape (-1, 16)"),
        (
            {"z": ((1,), (1,), (1,))},
            "profile 0 has a range for 'z', which is no input of the network; its inputs are 'x'",
        ),
        ({"x": ((1,), (4,), (8,))}, "profile 0 gives input 'x' 1 dimensions, its shape (-1, 16) has 2"),
        ({"x": ((1, 8), (4, 8), (8, 8))}, "profile 0 gives input 'x' min=(1, 8), max=(8, 8)"),
        ({"x": ((1, 16), (4, 16), (8, 32))}, "where its shape (-1, 16) is not -1, both must equal it"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(builder, log, shapes, reason):
    assert reason in refused(builder, log, feed_forward(builder), config_with(builder, shapes))


def test_profiles_check_ranges_when_they_are_set(builder):
    profile = builder.create_optimization_profile()
    with pytest.raises(ValueError, match=r"min=\(2,\) <= opt=\(1,\)"):
        profile.set_shape("x", (2,), (1,), (3,))
    with pytest.raises(ValueError, match="same number of dimensions"):
        profile.set_shape("x", (2,), (2, 2), (3,))
    with pytest.raises(ValueError, match="negative"):
        profile.set_shape("x", (-1,), (2,), (3,))
    with pytest.raises(ValueError, match="does not hold"):
        profile.set_shape_input("x", [3], [2], [1])
    assert profile.get_shape("x") == []
    profile.set_shape("x", (1, 2), (3, 4), (5, 6))
    assert [tuple(shape) for shape in profile.get_shape("x")] == [(1, 2), (3, 4), (5, 6)]
    profile.set_shape_input("n", [-1], [0], [1])
    assert profile.get_shape_input("n") == [[-1], [0], [1]]
    with pytest.raises(ValueError, match="outside"):
        profile.extra_memory_target = 2.0


def test_a_static_network_gets_a_profile_by_itself(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (2, 3))
    network.mark_output(network.add_unary(x, trt.UnaryOperation.NEG).get_output(0))
    context = context_of(builder.build_serialized_network(network, builder.create_builder_config()), log)
    engine = context.engine
    assert engine.num_optimization_profiles == 1
    assert [tuple(shape) for shape in engine.get_tensor_profile_shape("x", 0)] == [(2, 3)] * 3
    assert context.infer_shapes() == []


def test_shape_inputs_need_a_range_of_values(builder, log):
    network = strongly_typed(builder)
    x, to = network.add_input("x", trt.float32, (6,)), network.add_input("to", trt.int64, (2,))
    shuffle = network.add_shuffle(x)
    shuffle.set_input(1, to)
    network.mark_output(shuffle.get_output(0))
    assert "has values that shapes depend on" in refused(
        builder, log, network, builder.create_builder_config()
    )
    empty = config_with(builder, {})
    assert "no range for the values of 'to'" in refused(builder, log, network, empty)
    wrong = config_with(builder, {}, {"to": ((1,), (1,), (1,))})
    assert "gives 1 values for 'to', which has 2 elements" in refused(builder, log, network, wrong)


# Networks that cannot be built


def test_a_network_without_outputs_is_refused(builder, log):
    network = strongly_typed(builder)
    network.add_input("x", trt.float32, (2,))
    assert "no outputs" in refused(builder, log, network, builder.create_builder_config())


def test_an_input_as_output_is_refused(builder, log):
    network = strongly_typed(builder)
    network.mark_output(network.add_input("x", trt.float32, (2,)))
    reason = refused(builder, log, network, builder.create_builder_config())
    assert "'x' is an input and an output of the network" in reason


@pytest.mark.parametrize("formats, named", [(1 << int(trt.TensorFormat.HWC), "HWC"), (0, "none")])
def test_a_format_that_is_not_linear_is_refused(builder, log, formats, named):
    for is_input in (True, False):
        network = feed_forward(builder)
        tensor = network.get_input(0) if is_input else network.get_output(0)
        tensor.allowed_formats = formats
        assert builder.build_serialized_network(network, config_with(builder, SIZES)) is None
        assert (
            f"{tensor.name!r} allows the formats {named}, but the embedded engine has LINEAR only" in log.last
        )
        tensor.allowed_formats = formats | 1 << int(trt.TensorFormat.LINEAR)
        assert builder.is_network_supported(network, config_with(builder, SIZES))


def test_errors_that_show_late_name_the_layer(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (6,))
    shuffle = network.add_shuffle(x)
    shuffle.name = "the shuffle"
    network.mark_output(shuffle.get_output(0))
    shuffle.reshape_dims = (4, 2)
    assert "the shuffle" in refused(builder, log, network, builder.create_builder_config())
    assert not builder.is_network_supported(network, builder.create_builder_config())
    shuffle.reshape_dims = (3, 2)
    assert builder.is_network_supported(network, builder.create_builder_config())


@pytest.mark.parametrize("flag", [trt.BuilderFlag.FP16, trt.BuilderFlag.BF16, trt.BuilderFlag.INT8])
def test_precision_flags_are_refused_in_strongly_typed_networks(builder, log, flag):
    config = config_with(builder, SIZES)
    config.set_flag(flag)
    reason = refused(builder, log, feed_forward(builder), config)
    assert f"flag {flag.name} cannot be set for a strongly typed network" in reason
    config.clear_flag(flag)
    assert builder.build_serialized_network(feed_forward(builder), config) is not None


# Settings


def test_a_config_starts_with_tensorrts_defaults(builder):
    config = builder.create_builder_config()
    sources = [trt.TacticSource.EDGE_MASK_CONVOLUTIONS, trt.TacticSource.JIT_CONVOLUTIONS]
    assert config.get_tactic_sources() == sum(1 << int(source) for source in sources)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.DLA_MANAGED_SRAM) == 0
    assert config.get_memory_pool_limit(trt.MemoryPoolType.DLA_LOCAL_DRAM) == 2**30
    assert config.get_memory_pool_limit(trt.MemoryPoolType.DLA_GLOBAL_DRAM) == 2**29
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_SHARED_MEMORY) == 2**30


def test_a_config_keeps_what_it_is_told(builder, log):
    config = builder.create_builder_config()
    assert config.get_flag(trt.BuilderFlag.TF32)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    assert config.flags == 1 << int(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 20)
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 1 << 20
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, -1)
    assert "cannot be limited to -1 bytes" in log.last
    assert config.get_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM) == 2**63 - 1
    config.set_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10, True)
    assert config.get_preview_feature(trt.PreviewFeature.RUNTIME_ACTIVATION_RESIZE_10_10)
    assert config.add_optimization_profile(None) == -1
    config.reset()
    assert config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_optimization_profiles == 0


def test_timing_caches_survive(builder, log):
    config = builder.create_builder_config()
    cache = config.create_timing_cache(b"")
    assert config.set_timing_cache(cache, False)
    assert config.get_timing_cache() is cache
    blob = bytes(cache.serialize())
    again = config.create_timing_cache(blob)
    assert bytes(again.serialize()) == blob
    assert again.combine(cache, False)
    assert again.reset()
    assert config.create_timing_cache(b"something else") is None
    assert "no timing cache of the embedded engine" in log.last


# What the engine tells


def inspected(builder, verbosity, log):
    config = config_with(builder, SIZES)
    config.profiling_verbosity = verbosity
    plan = builder.build_serialized_network(feed_forward(builder), config)
    engine = context_of(plan, log).engine
    assert engine.profiling_verbosity == verbosity
    return engine, engine.create_engine_inspector()


def test_the_inspector_tells_as_much_as_was_asked_for(builder, log):
    one_line, as_json = trt.LayerInformationFormat.ONELINE, trt.LayerInformationFormat.JSON
    engine, inspector = inspected(builder, trt.ProfilingVerbosity.DETAILED, log)
    shown = json.loads(inspector.get_engine_information(as_json))
    assert len(shown["Layers"]) == engine.num_layers
    assert shown["Bindings"] == ["x", "y"]
    kinds = [layer["LayerType"] for layer in shown["Layers"]]
    assert kinds.count("MATRIX_MULTIPLY") == 2
    assert kinds.count("ACTIVATION") == 1
    assert shown["Layers"][-1]["Outputs"][0]["Dimensions"] == [-1, 16]
    assert json.loads(inspector.get_layer_information(0, as_json)) == shown["Layers"][0]
    assert shown["Layers"][0]["Name"] in inspector.get_layer_information(0, one_line)
    assert inspector.get_layer_information(99) == ""
    assert "there is no layer 99" in log.last

    _, inspector = inspected(builder, trt.ProfilingVerbosity.LAYER_NAMES_ONLY, log)
    assert json.loads(inspector.get_engine_information(as_json))["Layers"] == [
        layer["Name"] for layer in shown["Layers"]
    ]
    _, inspector = inspected(builder, trt.ProfilingVerbosity.NONE, log)
    assert inspector.get_engine_information(one_line) == ""


# Values that cannot be


def test_a_writer_that_raises_stops_the_build(builder, log):
    class Raising(trt.IStreamWriter):
        def write(self, data):
            raise KeyError("no room")

    network = feed_forward(builder)
    assert (
        builder.build_serialized_network_to_stream(network, config_with(builder, SIZES), Raising()) is False
    )
    assert "the engine cannot be written: the stream writer failed: 'no room'" in log.last


@pytest.mark.parametrize("error", [ValueError, TypeError, OverflowError])
def test_what_no_plan_can_hold_is_an_error_in_the_log(builder, log, monkeypatch, error):
    def fail(*_):
        raise error("too large")

    monkeypatch.setattr("trtllm_ext.embedded.builder.assemble", fail)
    assert builder.build_serialized_network(feed_forward(builder), config_with(builder, SIZES)) is None
    assert "the network has a value that cannot be built: too large" in log.last


def test_a_build_without_enough_memory_is_an_error_in_the_log(builder, log, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("trtllm_ext.embedded.builder.assemble", fail)
    assert builder.build_serialized_network(feed_forward(builder), config_with(builder, SIZES)) is None
    assert "there is not enough memory to build the network" in log.last


def test_names_that_cannot_be_stored_are_refused(builder):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (-1,))
    layer = network.add_identity(x)
    for give in (
        lambda: network.add_input("\ud800", trt.float32, (2,)),
        lambda: setattr(network, "name", "x\ud800"),
        lambda: setattr(x, "name", "\ud800"),
        lambda: setattr(layer, "name", "\ud800"),
        lambda: setattr(layer, "metadata", "\ud800"),
        lambda: x.set_dimension_name(0, "\ud800"),
    ):
        with pytest.raises(TypeError, match="UTF-8"):
            give()


@pytest.mark.parametrize("field", ["alpha", "beta"])
def test_numbers_of_a_fill_have_64_bits(builder, field):
    layer = strongly_typed(builder).add_fill((2,), trt.FillOperation.LINSPACE, trt.int64)
    with pytest.raises(TypeError, match="at most 64 bits"):
        setattr(layer, field, 2**70)


@pytest.mark.parametrize("most", [8.5, "8", 2**64])
@pytest.mark.parametrize("method", ["set_shape", "set_shape_input"])
def test_profiles_take_integers_of_64_bits(builder, method, most):
    profile = builder.create_optimization_profile()
    with pytest.raises(TypeError, match=r"x'\): .*(integers|64 bits)"):
        getattr(profile, method)("x", (1,), (2,), (most,))
    getattr(profile, method)("x", (np.int32(1),), (2,), (2**63 - 1,))
