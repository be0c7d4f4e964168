"""Small engines for tests, a logger that remembers, and plans put together by hand."""

import hashlib
import struct
import zlib

import numpy as np

import trtllm_ext.embedded as trt
from trtllm_ext.embedded.plan.layout import CHUNK_BYTES, PAGE_BYTES, Layout, align

HIDDEN, FFN = 16, 24


class Log(trt.ILogger):
    """Keeps what is said at WARNING or worse."""

    def __init__(self):
        super().__init__()
        self.said = []

    def log(self, severity, msg):
        if int(severity) <= int(trt.Logger.WARNING):
            self.said.append(msg)

    @property
    def last(self):
        return self.said[-1] if self.said else ""


class FeedForward:
    """y = relu(x w1^T + b1) w2^T + x with random weights, in a dtype; `run()` computes it in float64."""

    def __init__(self, dtype=trt.float32, hidden=HIDDEN, ffn=FFN, seed=0):
        rng = np.random.default_rng(seed)
        storage = {trt.float32: np.float32, trt.float16: np.float16}[dtype]
        self.dtype, self.hidden = dtype, hidden
        self.w1 = (rng.standard_normal((ffn, hidden)) * 0.3).astype(storage)
        self.b1 = rng.standard_normal((1, ffn)).astype(storage)
        self.w2 = (rng.standard_normal((hidden, ffn)) * 0.3).astype(storage)

    def run(self, x):
        w1, b1, w2, x = (array.astype(np.float64) for array in (self.w1, self.b1, self.w2, x))
        return np.maximum(x @ w1.T + b1, 0) @ w2.T + x

    def define(self, network):
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        plus = trt.ElementWiseOperation.SUM

        def constant(array):
            return network.add_constant(array.shape, trt.Weights(array)).get_output(0)

        x = network.add_input("x", self.dtype, (-1, self.hidden))
        h = network.add_matrix_multiply(x, none, constant(self.w1), transpose).get_output(0)
        h = network.add_elementwise(h, constant(self.b1), plus).get_output(0)
        h = network.add_activation(h, trt.ActivationType.RELU).get_output(0)
        h = network.add_matrix_multiply(h, none, constant(self.w2), transpose).get_output(0)
        y = network.add_elementwise(h, x, plus).get_output(0)
        y.name = "y"
        network.mark_output(y)


def strongly_typed(builder):
    """An empty strongly typed network."""
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))


def config_with(builder, shapes=None, values=None):
    """A config with one profile from {name: (min, opt, max)}."""
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, given in (shapes or {}).items():
        profile.set_shape(name, *given)
    for name, given in (values or {}).items():
        profile.set_shape_input(name, *given)
    config.add_optimization_profile(profile)
    return config


def feed_forward_plan(log=None, sizes=(1, 4, 8), **options):
    """(FeedForward, serialized engine); sizes: min, opt, max number of tokens."""
    model, builder = FeedForward(**options), trt.Builder(log or Log())
    network = strongly_typed(builder)
    model.define(network)
    config = config_with(builder, {"x": tuple((size, model.hidden) for size in sizes)})
    return model, builder.build_serialized_network(network, config)


def context_of(plan, log, load_mode="prepack"):
    """A context of a serialized engine."""
    runtime = trt.Runtime(log)
    runtime.load_mode = load_mode
    engine = runtime.deserialize_cuda_engine(plan)
    assert engine is not None, log.said
    return engine.create_execution_context()


def run_context(context, feeds, outputs):
    """Run with inputs {name: array} into fresh outputs {name: numpy dtype}."""
    for name, array in feeds.items():
        assert context.set_input_shape(name, array.shape)
        assert context.set_tensor_address(name, array.ctypes.data)
    arrays = {
        name: np.full(tuple(context.get_tensor_shape(name)), 77, dtype) for name, dtype in outputs.items()
    }
    for name, array in arrays.items():
        assert context.set_tensor_address(name, array.ctypes.data)
    assert context.execute_async_v3(0)
    return arrays


def parts_of(plan):
    """(header, segments, weights) of a serialized engine as bytes."""
    view = memoryview(plan)
    layout = Layout.unpack(view)
    return (
        bytes(view[64 : layout.segments_offset]),
        bytes(view[layout.segments_offset : layout.segments_end]),
        bytes(view[layout.weights_offset : layout.trailer_offset]),
    )


def signed(header, segments=b"", weights=b""):
    """A plan with these contents whose checksums are all right, whatever the contents say."""
    layout = Layout(header_bytes=len(header), segments_bytes=len(segments), weights_bytes=len(weights))
    head = layout.pack() + header
    models = segments + bytes(align(layout.segments_end, PAGE_BYTES) - layout.segments_end)
    crcs = [zlib.crc32(weights[start : start + CHUNK_BYTES]) for start in range(0, len(weights), CHUNK_BYTES)]
    trailer = b"".join(hashlib.sha256(part).digest() for part in (head, models, weights))
    trailer += struct.pack(f"<{len(crcs)}I", *crcs)
    return head + models + weights + trailer + hashlib.sha256(trailer).digest()
