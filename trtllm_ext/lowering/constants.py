"""The constants of one model: small ones inside it, large ones beside it."""

import numpy as np
import onnx
from onnx import helper

from trtllm_ext.lowering.names import Names
from trtllm_ext.lowering.steps import WEIGHTS_LOCATION, Source, Weight
from trtllm_ext.lowering.values import Value

# Constants of up to this many bytes stay inside the model.
INLINE_BYTES = 1024


class Constants:
    """Initializers, and the weights of those whose data is outside of the model; equal ones are one."""

    def __init__(self, names: Names) -> None:
        self.initializers: list[onnx.TensorProto] = []
        self.weights: list[Weight] = []
        self._names = names
        self._inlined: dict[tuple[bytes, int, tuple[int, ...]], str] = {}
        self._stored: dict[tuple[int, int, int], Value] = {}

    def inlined(self, value: Value, wanted: str) -> str:
        """The name of a small constant. wanted: its name if it has none."""
        array = value.array()
        key = (array.tobytes(), value.onnx_type, value.shape)
        if key not in self._inlined:
            name = self._names.unique(value.name or wanted)
            self.initializers.append(
                helper.make_tensor(name, value.onnx_type, value.shape, array.tobytes(), raw=True)
            )
            self._inlined[key] = name
        return self._inlined[key]

    def stored(self, value: Value, wanted: str) -> Value:
        """A large constant as it is stored: once for all uses of its memory, in the shape of the first."""
        data = value.array().reshape(-1)
        key = (data.ctypes.data, value.onnx_type, data.size)
        if key not in self._stored:
            self._stored[key] = self.external(value, wanted)
        return self._stored[key]

    def external(self, value: Value, wanted: str, source: Source | None = None) -> Value:
        """A constant with its data outside of the model, by itself. source: whose weights it is."""
        name = self._names.unique(value.name or wanted)
        data = value.array().reshape(-1).view(np.uint8)
        tensor = onnx.TensorProto(name=name, data_type=value.onnx_type, dims=value.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=WEIGHTS_LOCATION)
        tensor.external_data.add(key="length", value=str(data.nbytes))
        self.initializers.append(tensor)
        self.weights.append(Weight(name, value.onnx_type, value.shape, data, source))
        return Value(name, value.onnx_type, value.shape)
