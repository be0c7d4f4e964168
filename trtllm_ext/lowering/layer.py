"""What a lowering function is given: one layer, the values of its inputs, the rule of its types."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trtllm_ext.lowering.element_types import (
    FLOAT,
    FLOATS,
    INT8,
    NARROW_FLOATS,
    carrier_of,
    onnx_type_of,
)
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.layer_view import EXPANSION, LayerView
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.values import Value, constant


@dataclass(frozen=True)
class Layer:
    """One layer about to be lowered.

    Arithmetic is done in float32 whatever the tensors' types: `operand()` gives an input widened, and the driver
    rounds what the function returns to the output's type, once. Pure movement of data takes `raw()` inputs.
    """

    emitter: Emitter
    network: NetworkView
    view: LayerView
    values: tuple[Value | None, ...]

    @property
    def api(self) -> Any:
        """The TensorRT layer object, for its attributes."""
        return self.view.api

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output; -1 where a length is known at run time only."""
        return self.shape_of_output(0)

    def shape_of_output(self, index: int) -> tuple[int, ...]:
        """Shape of output `index`. Raises LoweringError where the library itself cannot tell."""
        try:
            return tuple(self.view.outputs[index].shape)
        except ValueError:
            raise self.refusal(
                f"the library cannot infer the shape of its output {index}, and has logged why"
            ) from None

    @property
    def output_type(self) -> int:
        """ONNX type of the first output."""
        return self.type_of_output(0)

    def type_of_output(self, index: int) -> int:
        """ONNX type in which output `index` is given back: its own, or float32 for FP8."""
        return carrier_of(self.stored_type_of_output(index))

    def stored_type_of_output(self, index: int) -> int:
        """ONNX type of output `index` between layers."""
        return onnx_type_of(self.view.outputs[index].dtype, f"an output of {self.view}")

    @property
    def precision(self) -> int | None:
        """The narrow type that a weakly typed network demands of this layer's computation, if it does."""
        if self.network.strongly_typed or not self.api.precision_is_set or self.view.kind == EXPANSION:
            return None  # a plugin computes as it does
        precision = onnx_type_of(self.api.precision, f"the precision of {self.view}")
        return precision if precision in NARROW_FLOATS else None

    def weights(self, role: str, array: np.ndarray[Any, Any], name: str = "") -> Value:
        """Weights of this layer as a constant that borrows their memory.

        role: what they are to it, by the name of a WeightsRole. Where the network wants to exchange them in the built
        engine, the constant hides its elements.
        """
        value = constant(array, name)
        source = (id(self.api), role)
        if source not in self.network.refittable or not array.size:
            return value
        return self.emitter.exchangeable(value, source)

    def has(self, index: int) -> bool:
        """Whether input `index` is connected."""
        return index < len(self.values) and self.values[index] is not None

    def raw(self, index: int) -> Value:
        """Input `index` in its own type; FP8 as float32, which holds it exactly."""
        value = self.values[index] if index < len(self.values) else None
        if value is None:
            raise self.refusal(f"input {index} is missing")
        carried = self.emitter.cast(value, carrier_of(value.onnx_type))
        return value if carried is value else replace(carried, symbols=value.symbols)

    def operand(self, index: int) -> Value:
        """Input `index` as arithmetic takes it: floats as float32, rounded first to the layer's precision."""
        return self.as_operand(self.raw(index))

    def as_operand(self, value: Value) -> Value:
        """A value as arithmetic takes it."""
        if value.onnx_type == INT8:
            raise self.refusal("arithmetic on INT8 is not supported; dequantize the input first")
        if value.onnx_type not in FLOATS:
            return value
        if self.precision is not None:
            value = self.emitter.cast(value, self.precision)
        return self.emitter.widened(value)

    def operands(self) -> tuple[Value, ...]:
        """All inputs as arithmetic takes them; float32 throughout where any of them is a float."""
        values = tuple(self.operand(index) for index in range(len(self.values)))
        if any(value.onnx_type == FLOAT for value in values):
            values = tuple(
                self.emitter.cast(value, FLOAT) if value.onnx_type in FLOATS else value for value in values
            )
        return values

    def refusal(self, why: str) -> LoweringError:
        """The error to raise about this layer."""
        return LoweringError(f"{self.view}: {why}")
