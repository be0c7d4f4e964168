"""A network built through the embedded API, lowered, checked and run by a bare ONNX Runtime session."""

import collections

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from lowered_models import inline, run_session

import trtllm_ext.embedded as trt
from trtllm_ext.lowering import lower

NUMPY = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
NARROW = ("HALF", "BF16")
FLOATS = ("FLOAT", *NARROW)
INTS = ("INT32", "INT64")
TYPES = tuple(NUMPY)
QUANTIZED = {"INT8": np.dtype(np.int8), "FP8": np.dtype(ml_dtypes.float8_e4m3fn)}
TYPE_NAME = {dtype: name for name, dtype in (NUMPY | QUANTIZED).items()}
LEVELS = {
    "DISABLE_ALL": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "BASIC": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "EXTENDED": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "ALL": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


class Net:
    """A network in the making; add_* go to `network`."""

    def __init__(self, *, strongly_typed=True):
        self.trt = trt
        self.builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        flag = int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self.builder.create_network(1 << flag if strongly_typed else 0)
        self.alive = []

    def input(self, name, type_name, shape):
        return self.network.add_input(name, getattr(trt.DataType, type_name), shape)

    def constant(self, array):
        array = np.asarray(array, order="C")
        self.alive.append(array)
        weights = trt.Weights(getattr(trt.DataType, TYPE_NAME[array.dtype]), array.ctypes.data, array.size)
        return self.network.add_constant(array.shape, weights).get_output(0)

    def op(self, name, *args, **attributes):
        """The output of `network.add_<name>(*args)` with attributes set afterwards."""
        layer = getattr(self.network, f"add_{name}")(*args)
        assert layer is not None, name
        for attribute, setting in attributes.items():
            setattr(layer, attribute, setting)
        return layer.get_output(0)

    def mark(self, tensor, name="y"):
        tensor.name = name
        self.network.mark_output(tensor)

    def lower(self):
        return lower(self.network, trt)

    def segment(self):
        (segment,) = self.lower().steps
        return segment

    def run(self, feeds, level="ALL"):
        return run_segment(self.segment(), feeds, level)


def self_contained(segment):
    """The segment's model with its weights inside, checked as far as onnx knows the domains."""
    model = inline(segment)
    onnx.checker.check_model(model, full_check=True)
    return model


def session_of(segment, level="ALL", optimized_path=None):
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    model = self_contained(segment).SerializeToString()
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_segment(segment, feeds, level="ALL"):
    return run_session(session_of(segment, level), feeds)


def optimized_ops(segment, tmp_path, level="ALL"):
    """How many nodes of each kind ONNX Runtime executes after its optimisations."""
    path = tmp_path / "optimized.onnx"
    session_of(segment, level, optimized_path=path)
    nodes = onnx.load(str(path), load_external_data=False).graph.node
    return collections.Counter(node.op_type for node in nodes)


def same_bits(got, expected):
    """Equal type, shape and bits; NaNs only need to be NaNs."""
    assert got.dtype == expected.dtype and got.shape == expected.shape, (got.dtype, got.shape, expected.shape)
    if got.dtype.kind in "biu":
        np.testing.assert_array_equal(got, expected)
        return
    wide, reference = got.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_array_equal(wide, reference)
    here = ~np.isnan(reference)
    np.testing.assert_array_equal(np.signbit(wide[here]), np.signbit(reference[here]))
