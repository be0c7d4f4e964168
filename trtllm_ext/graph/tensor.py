"""Tensor: a value in a network being defined, with TensorRT-LLM's operators and methods."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph.dim_range import DimRange, profiles_of
from trtllm_ext.graph.dtypes import to_trt_dtype
from trtllm_ext.graph.network import Network, default_net

if TYPE_CHECKING:
    import numpy as np

    from trtllm_ext.graph.dtypes import Scalar


class Tensor:
    """A value in the network: an input, or an output of a layer.

    Constructing one inside `net_guard` adds an input to the network:

        Tensor("x", "float32", [-1, 384], OrderedDict(tokens=[[1, 64, 512]], hidden=[384]))

    name, dtype, shape: of the input; -1 for a dimension that varies; dtype is a string or a `trt.DataType`.
    dim_range: one entry a dimension, {dimension name: [item for each optimization profile]}, an item being a size or
        [min, opt, max]. Dimensions of the same name have the same range in all inputs.
    is_network_input, network, trt_tensor: for wrapping an `ITensor` that a layer gave.

    Raises GraphError when the ranges do not fit the shape, and outside of `net_guard`.

    `a == b` adds an EQUAL layer, as in TensorRT-LLM. So a Tensor has no truth value (asking for it raises GraphError,
    which also catches `tensor in list`); compare with `is`.
    """

    def __init__(
        self,
        name: str | None = None,
        dtype: Any = None,
        shape: Sequence[int] | None = None,
        dim_range: "OrderedDict[str, list[Any]] | None" = None,
        is_network_input: bool = True,
        location: Any = None,
        network: Network | None = None,
        trt_tensor: Any = None,
    ) -> None:
        self.producer: Any = None
        self.profiles: list[DimRange] = []
        self.is_network_input = is_network_input and trt_tensor is None
        # What a constant holds, so that it can be given another shape without a layer.
        self.host_array: np.ndarray[Any, Any] | None = None
        # Its shape once that was asked for; and for a rank-0 size, whose it is: (id of the Tensor, dimension).
        self.shape_tensor: Tensor | None = None
        self.dim_of: tuple[int, int] | None = None
        self._name = name
        self._network = network if network is not None else default_net()
        if trt_tensor is None and is_network_input:
            if not name or dtype is None or shape is None:
                raise GraphError(
                    f"a network input needs a name, a dtype and a shape; got {name!r}, {dtype!r}, {shape!r}."
                )
            sizes = tuple(int(size) for size in shape)
            self.profiles = profiles_of(name, sizes, dim_range)
            trt_tensor = self._network.add_input(self, to_trt_dtype(dtype), sizes)
            for i, dim in enumerate(dim_range or ()):
                if sizes[i] == -1:  # inputs whose sizes have one name have one size
                    trt_tensor.set_dimension_name(i, str(dim))
            if location is not None:
                trt_tensor.location = location
        self.trt_tensor = trt_tensor

    # --- what it is --------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The tensor's name in the network."""
        return str(self.trt_tensor.name) if getattr(self, "trt_tensor", None) is not None else str(self._name)

    @name.setter
    def name(self, name: str) -> None:
        self._network.rename(self.trt_tensor, name)

    @property
    def dtype(self) -> Any:
        """The element type, a `trt.DataType`."""
        return self._network.type_of(self.trt_tensor)

    @dtype.setter
    def dtype(self, dtype: Any) -> None:
        self.trt_tensor.dtype = to_trt_dtype(dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, -1 where they are not known before run time."""
        return self.trt_shape()

    @shape.setter
    def shape(self, shape: Sequence[int]) -> None:
        self.trt_tensor.shape = tensorrt().Dims(list(shape))

    def trt_shape(self) -> tuple[int, ...]:
        """The shape that TensorRT infers. Raises ValueError when it cannot."""
        dims = self.trt_tensor.shape
        len(dims)  # raises for dims that could not be inferred, where iteration would just end
        return tuple(map(int, dims))

    @property
    def location(self) -> Any:
        """Where the tensor lives, a `trt.TensorLocation`."""
        return self.trt_tensor.location

    @location.setter
    def location(self, location: Any) -> None:
        self.trt_tensor.location = location

    @property
    def network(self) -> Network:
        """The network that the tensor belongs to."""
        return self._network

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the size of one dimension (-1 if it varies)."""
        return self.shape if dim is None else self.shape[dim]

    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def is_dynamic(self, dim: int | None = None) -> bool:
        """Whether a dimension varies; without `dim`, whether any but the first (the batch) does."""
        return self.shape[dim] == -1 if dim is not None else -1 in self.shape[1:]

    def __repr__(self) -> str:
        return f"Tensor(name={self.name!r}, dtype={self.dtype}, shape={self.shape})"

    # --- the network around it ---------------------------------------------------------------------------------

    def mark_output(self, name: str | None = None, dtype: Any = None) -> None:
        """Make the tensor an output of the network.

        name: of the output; the tensor's own by default.
        dtype: of the output. A strongly typed network gets a cast when it differs, a weakly typed one converts at the
            output.
        Raises GraphError when the name is taken. An input, or a tensor that is an output already, is passed through an
        identity layer, since TensorRT marks a tensor once.
        """
        self._network.add_output(
            self, name if name is not None else self.name, None if dtype is None else to_trt_dtype(dtype)
        )

    def is_trt_wrapper(self) -> bool:
        """Whether there is an `ITensor` behind it."""
        return self.trt_tensor is not None

    def get_parent(self) -> Any:
        """The layer that gives this tensor; None for a network input."""
        return self.producer

    def get_users(self) -> list[Any]:
        """The layers that take this tensor. Cost: looks at every layer of the network."""
        return [
            layer
            for layer in self._network.get_layers()
            if any(layer.get_input(i) is self.trt_tensor for i in range(layer.num_inputs))
        ]

    def replace_all_uses_with(self, new_tensor: "Tensor") -> None:
        """Let every layer that takes this tensor take `new_tensor` instead. Outputs of the network stay as marked."""
        for layer in self.get_users():
            for i in range(layer.num_inputs):
                if layer.get_input(i) is self.trt_tensor:
                    layer.set_input(i, new_tensor.trt_tensor)

    # --- operators ---------------------------------------------------------------------------------------------

    # numpy then leaves `array + tensor` to __radd__, instead of adding the tensor to each element by itself.
    __array_ufunc__ = None

    def __add__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().add(self, b)

    def __radd__(self, b: "Scalar") -> "Tensor":
        return _functional().add(b, self)

    def __sub__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().sub(self, b)

    def __rsub__(self, b: "Scalar") -> "Tensor":
        return _functional().sub(b, self)

    def __mul__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().mul(self, b)

    def __rmul__(self, b: "Scalar") -> "Tensor":
        return _functional().mul(b, self)

    def __truediv__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().div(self, b)

    def __floordiv__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().floordiv(self, b)

    def __mod__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().modulo(self, b)

    def __lt__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().lt(self, b)

    def __gt__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().gt(self, b)

    def __eq__(self, b: "Tensor | Scalar") -> "Tensor":  # type: ignore[override]
        return _functional().eq(self, b)

    def __le__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().op_or(self < b, self == b)

    def __ge__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().op_or(self > b, self == b)

    def __xor__(self, b: "Tensor | Scalar") -> "Tensor":
        return _functional().op_xor(self, b)

    def __hash__(self) -> int:
        return id(self)

    def __bool__(self) -> bool:
        raise GraphError(
            f"the tensor {self.name!r} has no truth value while a network is being defined. Compare tensors with `is`, "
            "or choose between values with functional.where."
        )

    # --- method forms ------------------------------------------------------------------------------------------

    def view(self, shape: "Sequence[int] | Tensor", zero_is_placeholder: bool = True) -> "Tensor":
        """See `functional.view`."""
        return _functional().view(self, shape, zero_is_placeholder)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """See `functional.flatten`."""
        return _functional().flatten(self, start_dim, end_dim)

    def permute(self, dims: Sequence[int]) -> "Tensor":
        """See `functional.permute`."""
        return _functional().permute(self, dims)

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """See `functional.transpose`."""
        return _functional().transpose(self, dim0, dim1)

    def unsqueeze(self, dim: int) -> "Tensor":
        """See `functional.unsqueeze`."""
        return _functional().unsqueeze(self, dim)

    def squeeze(
        self, dim: "int | Sequence[int] | None" = None, zero_is_placeholder: bool = False
    ) -> "Tensor":
        """See `functional.squeeze`."""
        return _functional().squeeze(self, dim, zero_is_placeholder)

    def mean(self, dim: "int | Sequence[int]", keepdim: bool = False) -> "Tensor":
        """See `functional.mean`."""
        return _functional().mean(self, dim, keepdim)

    def max(self, dim: "int | Sequence[int]", keepdim: bool = False) -> "Tensor":
        """See `functional.max`."""
        return _functional().max(self, dim, keepdim)

    def abs(self) -> "Tensor":
        """See `functional.abs`."""
        return _functional().abs(self)

    def sqrt(self) -> "Tensor":
        """See `functional.sqrt`."""
        return _functional().sqrt(self)

    def log(self) -> "Tensor":
        """See `functional.log`."""
        return _functional().log(self)

    def cast(self, dtype: Any) -> "Tensor":
        """See `functional.cast`."""
        return _functional().cast(self, dtype)

    def split(self, split_size_or_sections: "int | Sequence[int]", dim: int = 0) -> "list[Tensor]":
        """See `functional.split`."""
        return _functional().split(self, split_size_or_sections, dim)

    def select(self, dim: int, index: "int | Tensor") -> "Tensor":
        """See `functional.select`."""
        return _functional().select(self, dim, index)

    def repeat(self, sizes: Sequence[int]) -> "Tensor":
        """See `functional.repeat`."""
        return _functional().repeat(self, sizes)

    def unbind(self, dim: int = 0) -> "tuple[Tensor, ...]":
        """See `functional.unbind`."""
        return _functional().unbind(self, dim)


def _functional() -> Any:  # imported late: it needs Tensor itself
    import trtllm_ext.graph.functional as ours

    return ours
