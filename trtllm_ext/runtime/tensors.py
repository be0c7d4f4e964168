"""What a session knows of one input or output, and the checks of what a caller gives for it.

numpy arrays and torch tensors are told apart by what they can do; torch is never imported here.
"""

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime.dtypes import NUMPY_DTYPES, TORCH_DTYPES, dtype_name, readable

Shape = tuple[int, ...]


@dataclass
class Port:
    """One input or output of an engine, with the last value bound to it.

    ranges: (min, max) shape of each optimization profile; empty for outputs.
    dim_names: names of dimensions that must agree between inputs ("" where nameless); empty when not known.
    is_shape: the engine reads the value on the host to work out shapes.
    """

    name: str
    dtype: Any
    shape: Shape
    is_input: bool
    is_shape: bool = False
    ranges: tuple[tuple[Shape, Shape], ...] = ()
    dim_names: tuple[str, ...] = ()
    numpy_dtype: np.dtype[Any] = field(init=False)
    torch_dtype: str = field(init=False)
    # State of the session: what the context has been told, so that an unchanged value costs nothing.
    last: Any = None  # weak reference to the numpy array bound last
    last_shape: Shape | None = None
    address: int = -1
    nbytes: int = 0

    def __post_init__(self) -> None:
        kind = dtype_name(self.dtype)
        if kind not in NUMPY_DTYPES:
            raise EngineError(
                f"the engine's tensor {self.name!r} has type {kind}, which neither numpy nor torch can hold."
            )
        self.numpy_dtype = NUMPY_DTYPES[kind]
        self.torch_dtype = f"torch.{TORCH_DTYPES[kind]}"

    @property
    def role(self) -> str:
        """'input' or 'output', for messages."""
        return "input" if self.is_input else "output"

    def describe(self) -> str:
        """Such as "hidden_states float32 (1, 64) to (128, 64)"."""
        if not self.ranges:
            return f"{self.name} {readable(self.dtype)} {self.shape}"
        return f"{self.name} {readable(self.dtype)} {describe_ranges(self.ranges)}"

    def check_shape(self, shape: Shape) -> None:
        """Raise InputError unless some profile allows `shape`."""
        if len(shape) != len(self.shape):
            raise InputError(
                f"input {self.name!r} has {len(shape)} dimensions, shape {shape}; expected "
                f"{len(self.shape)}: {describe_ranges(self.ranges) if self.ranges else self.shape}."
            )
        if not self.ranges:
            if shape != self.shape:
                raise InputError(f"input {self.name!r} has shape {shape}; expected {self.shape}.")
            return
        if any(within(shape, least, most) for least, most in self.ranges):
            return
        least, most = self.ranges[0]
        wrong = [
            f"dimension {i}{self._dim_name(i)} is {dim}, allowed {_span(least[i], most[i])}"
            for i, dim in enumerate(shape)
            if not least[i] <= dim <= most[i]
        ]
        detail = "; ".join(wrong) + ". " if len(self.ranges) == 1 else ""
        raise InputError(
            f"input {self.name!r} has shape {shape}; the engine allows {describe_ranges(self.ranges)}. "
            f"{detail}Give a value within these limits, or build the engine with others."
        )

    def _dim_name(self, index: int) -> str:
        name = self.dim_names[index] if index < len(self.dim_names) else ""
        return f" ({name})" if name else ""

    def check_value(self, value: Any) -> None:
        """Raise InputError unless `value` is a contiguous array of this port's type; shapes are another matter."""
        if is_torch(value):
            self._check_torch(value)
            return
        if not isinstance(value, np.ndarray):
            raise InputError(
                f"{self.role} {self.name!r} is a {type(value).__name__}; expected a numpy array or a torch "
                f"tensor of {readable(self.dtype)}."
            )
        if value.dtype != self.numpy_dtype:
            raise self.wrong_type(str(value.dtype), f"value.astype({_numpy_text(self.numpy_dtype)})")
        if not value.flags.c_contiguous:
            raise self._not_contiguous(value.shape, value.strides, "numpy.ascontiguousarray(value)")
        if not value.flags.aligned:
            raise InputError(
                f"{self.role} {self.name!r} is not aligned in memory (a view into packed bytes?). Pass a "
                f"copy: value.copy()."
            )
        if not self.is_input and not value.flags.writeable:
            raise InputError(f"output {self.name!r} is a read-only array; give one that can be written to.")

    def _check_torch(self, value: Any) -> None:
        if str(value.layout) != "torch.strided":
            raise InputError(f"{self.role} {self.name!r} is a {value.layout} tensor; expected a dense one.")
        if str(value.dtype) != self.torch_dtype:
            raise self.wrong_type(str(value.dtype), f"value.to({self.torch_dtype})")
        if not value.is_contiguous():
            raise self._not_contiguous(tuple(value.shape), tuple(value.stride()), "value.contiguous()")
        if value.is_neg() or value.is_conj():
            raise InputError(
                f"{self.role} {self.name!r} is a lazily negated view; pass value.resolve_neg().contiguous()."
            )

    def wrong_type(self, got: str, way_out: str) -> InputError:
        """The error for a value of type `got`."""
        return InputError(
            f"{self.role} {self.name!r} has type {got}; expected {readable(self.dtype)}. Nothing is "
            f"converted silently: pass {way_out} if that is what you mean."
        )

    def _not_contiguous(self, shape: Any, strides: Any, way_out: str) -> InputError:
        return InputError(
            f"{self.role} {self.name!r} is not contiguous (shape {tuple(shape)}, strides {tuple(strides)}); "
            f"the engine reads row-major memory and makes no copies. Pass {way_out}."
        )


def is_torch(value: Any) -> bool:
    """Whether `value` is a torch tensor; a tensor can only exist where torch has been imported already."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_on_host(value: Any) -> bool:
    """Whether the memory of an array or tensor is the host's."""
    return isinstance(value, np.ndarray) or value.device.type == "cpu"


def address_of(value: Any) -> int:
    """Pointer to the first element."""
    if isinstance(value, np.ndarray):
        pointer: int = value.ctypes.data
    else:
        pointer = value.data_ptr()
    return pointer


def within(shape: Shape, least: Shape, most: Shape) -> bool:
    """Whether each dimension lies between its bounds."""
    return all(low <= dim <= high for low, dim, high in zip(least, shape, most, strict=True))


def describe_ranges(ranges: tuple[tuple[Shape, Shape], ...]) -> str:
    """Such as "(1, 64) to (128, 64)", profiles joined by "or"."""
    return " or ".join(f"{least} to {most}" if least != most else f"{least}" for least, most in ranges)


def _span(least: int, most: int) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _numpy_text(dtype: np.dtype[Any]) -> str:
    return (
        f"ml_dtypes.{dtype.name}" if dtype.kind == "V" or dtype.name == "bfloat16" else f"numpy.{dtype.name}"
    )
