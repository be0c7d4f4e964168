"""Names that complete the module: what only exists to say that it is not supported, and settings that are kept."""

import subprocess
import sys

import numpy as np
import pytest
from tiny_plans import (
    FeedForward,
    config_with,
    context_of,
    feed_forward_plan,
    run_context,
    strongly_typed,
)

import trtllm_ext.embedded as trt

BUDGET_S = 6

X = np.random.default_rng(1).standard_normal((3, 16)).astype(np.float32)


def test_the_module_stands_for_tensorrt():
    code = (
        "import sys, trtllm_ext.embedded; sys.modules['tensorrt'] = trtllm_ext.embedded\n"
        "import tensorrt as trt\n"
        "from tensorrt import Builder, IInt8Calibrator, ILayer\n"
        "assert trt.tensorrt.ILayer is ILayer\n"
        "assert tuple(map(int, trt.__version__.split('.')[:2])) == (10, 14)\n"
        "assert {'OnnxParser', 'Builder'} <= set(dir(trt))\n"
        "assert not {'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_tensorrt_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'Bilder'"):
        _ = trt.Bilder
    assert not hasattr(trt, "IMoELayer")


def test_names_without_an_implementation_say_what_to_use(builder, log):
    with pytest.raises(NotImplementedError, match=r"OnnxParser is not supported .* define the network"):
        trt.OnnxParser(builder.create_network(), log)

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self):
            super().__init__()

    assert issubclass(Calibrator, trt.IInt8Calibrator)
    with pytest.raises(NotImplementedError, match=r"IInt8EntropyCalibrator2 is not supported .* quantize"):
        Calibrator()
    with pytest.raises(NotImplementedError, match="get_nv_onnx_parser_version"):
        trt.get_nv_onnx_parser_version()
    with pytest.raises(TypeError, match="ILRNLayer: No constructor defined"):
        trt.ILRNLayer()


def test_layers_without_an_implementation_are_errors_in_the_log(builder, log):
    network = strongly_typed(builder)
    x = network.add_input("x", trt.float32, (1, 16))
    assert network.add_nms(x, x, x) is None
    assert log.last == "add_nms is not supported by the embedded engine; select boxes outside of the network."
    assert network.add_lrn(x, window=3, alpha=1.0, beta=1.0, k=1.0) is None
    assert len(network) == 0


def test_networks_are_sequences_of_layers(builder):
    network = strongly_typed(builder)
    FeedForward().define(network)
    assert len(network) == network.num_layers
    assert network[0] is network.get_layer(0)
    assert network[-1] is network.get_layer(len(network) - 1)
    assert [layer.name for layer in network] == [network.get_layer(i).name for i in range(len(network))]
    with pytest.raises(IndexError):
        network[len(network)]
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert trt.INetworkDefinition.get_flag(network, flag)


def test_with_statements_do_nothing(builder, log):
    _, plan = feed_forward_plan(log)
    with pytest.warns(DeprecationWarning, match="without effect"), plan as same:
        assert same is plan
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    network, config = builder.create_network(), builder.create_builder_config()
    for thing in (log, builder, network, config, runtime, engine, engine.create_execution_context()):
        with pytest.warns(DeprecationWarning, match=type(thing).__name__), thing as same:
            assert same is thing
    builder.__del__()
    assert builder.create_network() is not None


# Engines piece by piece


class Reader(trt.IStreamReader):
    def __init__(self, data, piece=1000):
        super().__init__()
        self.data, self.piece, self.position = bytes(data), piece, 0

    def read(self, size):
        begin = self.position
        self.position += min(size, self.piece)
        return self.data[begin : self.position]


class ReaderV2(trt.IStreamReaderV2, Reader):
    def read(self, num_bytes, stream):
        return Reader.read(self, num_bytes)


@pytest.mark.parametrize("reader", [Reader, ReaderV2])
def test_an_engine_comes_from_a_stream(log, reader):
    model, plan = feed_forward_plan(log)
    engine = trt.Runtime(log).deserialize_cuda_engine(reader(plan))
    got = run_context(engine.create_execution_context(), {"x": X}, {"y": np.float32})["y"]
    np.testing.assert_allclose(got, model.run(X), rtol=1e-4, atol=1e-5)
    keyword = "stream_reader" if reader is Reader else "stream_reader_v2"
    assert trt.Runtime(log).deserialize_cuda_engine(**{keyword: reader(plan)}) is not None


def test_streams_that_fail_are_errors_in_the_log(log):
    runtime = trt.Runtime(log)
    assert runtime.deserialize_cuda_engine(Reader(b"")) is None
    assert "the stream reader gave no bytes" in log.last
    assert runtime.deserialize_cuda_engine(Reader(feed_forward_plan(log)[1][:-5])) is None
    assert "truncated" in log.last

    class Broken(trt.IStreamReader):
        def read(self, size):
            raise OSError("unplugged")

    assert runtime.deserialize_cuda_engine(Broken()) is None
    assert "the stream reader failed: unplugged" in log.last


# Settings


def test_budgets_of_weight_streaming(builder, log):
    network = strongly_typed(builder)
    FeedForward(hidden=16, ffn=64).define(network)
    config = config_with(builder, {"x": ((1, 16), (4, 16), (8, 16))})
    plain = context_of(builder.build_serialized_network(network, config), log).engine
    assert plain.streamable_weights_size == 0
    plain.weight_streaming_budget_v2 = 10
    assert "no weights to stream: it was built without BuilderFlag.WEIGHT_STREAMING" in log.last
    config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    engine = context_of(builder.build_serialized_network(network, config), log).engine
    size = engine.streamable_weights_size
    assert size == 2 * 16 * 64 * 4
    assert engine.weight_streaming_budget_v2 == engine.get_weight_streaming_automatic_budget() == size
    engine.weight_streaming_budget_v2 = 100
    assert engine.weight_streaming_budget_v2 == 100
    engine.weight_streaming_budget_v2 = -1
    assert "-1 is below 0" in log.last
    assert engine.weight_streaming_budget_v2 == 100
    engine.weight_streaming_budget = -1
    assert engine.weight_streaming_budget == -1
    assert engine.minimum_weight_streaming_budget == engine.weight_streaming_scratch_memory_size == 0


def test_settings_of_contexts_are_kept(log):
    engine = context_of(feed_forward_plan(log)[1], log).engine
    config = engine.create_runtime_config()
    on_change = trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE
    config.set_execution_context_allocation_strategy(on_change)
    for context in (
        engine.create_execution_context(config),
        engine.create_execution_context(runtime_config=config),
        engine.create_execution_context(on_change),
    ):
        kept = context.get_runtime_config().get_execution_context_allocation_strategy()
        assert kept == on_change
        context.set_aux_streams([1, 2])
        context.device_memory = 4096
        context.set_device_memory(4096, 1)
        assert context.update_device_memory_size_for_shapes() == 0
        with pytest.raises(AttributeError):
            _ = context.device_memory


def test_devices_of_layers(builder, log):
    network, config = strongly_typed(builder), builder.create_builder_config()
    layer = network.add_identity(network.add_input("x", trt.float32, (1,)))
    assert not config.is_device_type_set(layer)
    assert config.get_device_type(layer) == trt.DeviceType.GPU
    config.set_device_type(layer, trt.DeviceType.GPU)
    assert config.is_device_type_set(layer)
    config.set_device_type(layer, trt.DeviceType.DLA)
    assert "cannot run on a DLA" in log.last
    config.reset_device_type(layer)
    assert not config.is_device_type_set(layer)
    assert not config.can_run_on_DLA(layer)
    assert not config.set_calibration_profile(builder.create_optimization_profile())
    assert "does not calibrate" in log.last
    assert config.get_calibration_profile() is None


def test_what_a_runtime_cannot_do(log):
    runtime = trt.Runtime(log)
    assert (runtime.DLA_core, runtime.num_DLA_cores) == (-1, 0)
    assert runtime.tempfile_control_flags == 0b11
    assert runtime.load_runtime("libnvinfer_lean.so") is None
    assert "cannot be loaded by the embedded engine" in log.last


def test_dims_by_name():
    assert tuple(trt.DimsHW(h=2, w=3)) == tuple(trt.Dims2(dim0=2, dim1=3)) == (2, 3)
    assert tuple(trt.Dims3(shape=[1, 2, 3])) == tuple(trt.Dims3(1, 2, dim2=3)) == (1, 2, 3)
    assert tuple(trt.Dims4()) == (0, 0, 0, 0)
    with pytest.raises(TypeError, match="unexpected arguments depth"):
        trt.Dims2(1, depth=2)
    with pytest.raises(ValueError, match="Expected length is 2"):
        trt.Dims2(dim0=1)
