"""Lowered segments as models by themselves, and models run by a bare ONNX Runtime session."""

import ctypes

import numpy as np
import onnx
import onnxruntime as ort

_CARRIER = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def inline(segment):
    """The segment's model with its weights inside."""
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    weights = {weight.name: weight for weight in segment.weights}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            weight = weights.pop(tensor.name)
            assert (weight.onnx_type, weight.shape) == (tensor.data_type, tuple(tensor.dims))
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = weight.data.tobytes()
    assert not weights, f"weights without an initializer: {sorted(weights)}"
    return model


def run_session(session, feeds):
    """Feeds and results are numpy arrays of the tensors' own types, bfloat16 by ml_dtypes."""
    binding = session.io_binding()
    kept = []
    for name, array in feeds.items():
        array = np.asarray(array, order="C")
        onnx_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        carried = array.view(_CARRIER[array.dtype.itemsize])
        kept.append(ort.OrtValue.ortvalue_from_numpy_with_onnx_type(carried, onnx_type))
        binding.bind_ortvalue_input(name, kept[-1])
    outputs = [output.name for output in session.get_outputs()]
    for name in outputs:
        binding.bind_output(name)
    session.run_with_iobinding(binding)
    return {name: _array(value) for name, value in zip(outputs, binding.get_outputs(), strict=True)}


def _array(value):
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.element_type()))
    shape = tuple(value.shape())
    count = int(np.prod(shape))
    if count == 0:
        return np.empty(shape, dtype)
    return np.frombuffer(ctypes.string_at(value.data_ptr(), count * dtype.itemsize), dtype).reshape(shape)
