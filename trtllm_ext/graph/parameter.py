"""Parameter: a weight of a module."""

import math
from collections.abc import Sequence
from typing import Any

from trtllm_ext.errors import GraphError
from trtllm_ext.graph.arrays import Array, as_array
from trtllm_ext.graph.dtypes import np_dtype_to_trt, to_trt_dtype
from trtllm_ext.graph.network import current_net
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import readable


class Parameter:
    """A weight with a fixed type and shape, whose memory is borrowed and not copied.

    value: a numpy array (a read-only memory map is fine, `ml_dtypes` included), a torch tensor, or a number; may be set
        later, up to its first use in a network.
    shape: needed without a value. dtype: a string or a DataType; by default the value's own, or float32.
    is_buffer, prefer_managed: TensorRT-LLM's; kept, without effect.

    An unset parameter is a GraphError when a network asks for it (TensorRT-LLM fills it with random numbers).
    """

    def __init__(
        self,
        value: Any = None,
        shape: Sequence[int] | None = None,
        dtype: Any = None,
        is_buffer: bool = False,
        prefer_managed: bool = False,
    ) -> None:
        self.name: str | None = None
        self.is_buffer = is_buffer
        self.prefer_managed = prefer_managed
        self._array: Array | None = None
        array = None if value is None else as_array(value)
        if shape is not None:
            self._shape = tuple(int(size) for size in shape)
        elif array is not None:
            self._shape = array.shape
        else:
            raise GraphError("a Parameter needs a value or a shape.")
        if dtype is not None:
            self._dtype = to_trt_dtype(dtype)
        else:
            self._dtype = to_trt_dtype("float32") if array is None else np_dtype_to_trt(array.dtype)
        if array is not None:
            self.value = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the weight."""
        return self._shape

    @property
    def dtype(self) -> Any:
        """Element type, a `trt.DataType`."""
        return self._dtype

    def is_inited(self) -> bool:
        """Whether a value has been set."""
        return self._array is not None

    @property
    def raw_value(self) -> Array:
        """The array itself. Raises GraphError when no value has been set."""
        if self._array is None:
            raise GraphError(
                f"parameter {self._label()} ({readable(self._dtype)} {self._shape}) has no value; load the weights, or "
                "assign parameter.value, before the network is built."
            )
        return self._array

    @property
    def value(self) -> Tensor:
        """The weight as a constant of the network being defined; the same Tensor each time.

        Raises GraphError outside of `net_guard`, and when no value has been set.
        """
        from trtllm_ext.graph.functional.constants import constant

        network = current_net()
        if network is None:
            raise GraphError(
                f"parameter {self._label()}: value is its constant in the network, and no network is being defined "
                "here; wrap the code in `with net_guard(network):`, or read the array with raw_value."
            )
        return network.constant_of(self, lambda: constant(self.raw_value))

    @value.setter
    def value(self, value: Any) -> None:
        array = as_array(value)
        dtype = np_dtype_to_trt(array.dtype)
        if dtype != self._dtype:
            raise GraphError(
                f"parameter {self._label()} is {readable(self._dtype)}, the value is {readable(dtype)}; convert the "
                "value first."
            )
        if array.shape != self._shape:
            # TensorRT-LLM lets a scalar stand for a shape of ones.
            if array.ndim or math.prod(self._shape) != 1:
                raise GraphError(
                    f"parameter {self._label()} has the shape {self._shape}, the value {array.shape}."
                )
            array = array.reshape(self._shape)
        self._array = array

    def _label(self) -> str:
        network = current_net()
        known = network.parameter_name(self) if network is not None else None
        name = known or self.name
        return repr(name) if name else "without a name"

    def __repr__(self) -> str:
        state = "set" if self.is_inited() else "unset"
        return f"Parameter(name={self.name!r}, dtype={readable(self._dtype)}, shape={self._shape}, {state})"
