"""ITensor: an edge of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import DataType, Severity, TensorLocation
from trtllm_ext.embedded.rules.known import FLOATS, Known
from trtllm_ext.embedded.types import Dims, text_of

if TYPE_CHECKING:
    from trtllm_ext.embedded.graph import Graph
    from trtllm_ext.embedded.node import Node


class ITensor:
    """A network input or the output of a layer; made by a network, never by the user.

    The network hands out the same object for the same tensor every time.
    """

    __slots__ = (
        "__weakref__",
        "_consumers",
        "_dimension_names",
        "_dtype_wanted",
        "_dynamic_range",
        "_formats",
        "_graph",
        "_index",
        "_location",
        "_name",
        "_node",
        "_spec",
    )

    def __init__(self) -> None:
        raise TypeError("ITensor: No constructor defined! Tensors are made by the methods of a network.")

    @classmethod
    def _make(cls, graph: Graph, name: str, node: Node | None, index: int, spec: Known | None) -> ITensor:
        """The output `index` of `node`, or with a `spec` a network input."""
        tensor = object.__new__(cls)
        tensor._graph = graph
        tensor._name = name
        tensor._node = node
        tensor._index = index
        tensor._spec = spec
        tensor._consumers = {}
        tensor._dtype_wanted = None
        tensor._dimension_names = {}
        tensor._dynamic_range = None
        tensor._formats = 1
        tensor._location = TensorLocation.DEVICE
        return tensor

    _graph: Graph
    _name: str
    _node: Node | None
    _index: int
    _spec: Known | None
    _consumers: dict[Node, int]
    _dtype_wanted: DataType | None
    _dimension_names: dict[int, str]
    _dynamic_range: tuple[float, float] | None
    _formats: int
    _location: TensorLocation

    @property
    def name(self) -> str:
        """The name; of a layer's output at first that of the layer, followed by `_output`."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._graph.rename(self, text_of(name, "the name of a tensor"))

    @property
    def shape(self) -> Dims:
        """The lengths of the dimensions, -1 where only known at run time.

        If the shape cannot be computed the reason is logged, and `len()` of the result raises ValueError, as in
        TensorRT. Only the shape of a network input can be set.
        """
        known = self._known()
        if known is None:
            self._graph.report(self)
            return Dims._invalid()
        return Dims(known.shape)

    @shape.setter
    def shape(self, shape: Dims) -> None:
        dims = tuple(Dims(shape))
        if self._spec is None:
            self._graph.log(Severity.ERROR, f"{self._name}: only the shape of a network input can be set")
        elif any(length < -1 for length in dims):
            self._graph.log(
                Severity.ERROR, f"{self._name}: shape {dims} has a length below -1; shape unchanged"
            )
        elif dims != self._spec.shape:
            self._respecify(Known(self._spec.dtype, dims))

    @property
    def dtype(self) -> DataType:
        """The type of the elements.

        Setting it retypes a network input; of a layer's output only between floating-point types, and only in a
        weakly typed network. Otherwise the type stays, and an error is logged.
        """
        known = self._known()
        return DataType.FLOAT if known is None else known.dtype

    @dtype.setter
    def dtype(self, dtype: DataType) -> None:
        if not isinstance(dtype, DataType):
            raise TypeError(f"the type of a tensor must be a DataType, not {dtype!r}")
        if dtype == self.dtype:
            return
        if self._spec is not None:
            self._respecify(Known(dtype, self._spec.shape))
        elif self._graph.strongly_typed:
            self._graph.log(
                Severity.ERROR,
                f"{self._name}: the type of a layer's output cannot be set in a strongly typed network; it stays "
                f"{self.dtype.name}. Add a cast.",
            )
        elif self.dtype in FLOATS and dtype in FLOATS:
            self._dtype_wanted = dtype
            self._graph.invalidate_tensor(self)
        else:
            self._graph.log(
                Severity.ERROR,
                f"{self._name}: a tensor of {self.dtype.name} cannot become {dtype.name}. Add a cast.",
            )

    @property
    def is_network_input(self) -> bool:
        """Whether this tensor is an input of the network."""
        return self._spec is not None

    @property
    def is_network_output(self) -> bool:
        """Whether this tensor is marked as an output of the network."""
        return self._graph.is_output(self)

    @property
    def is_shape_tensor(self) -> bool:
        """Whether a shape depends on the values of this tensor.

        Answers for the network as it is now: a layer added later may need the values too.
        """
        return self._graph.is_shape_tensor(self)

    @property
    def is_execution_tensor(self) -> bool:
        """Whether the tensor is computed with data, not only with shapes."""
        return not self.is_shape_tensor or self.is_network_output

    @property
    def location(self) -> TensorLocation:
        """Where the tensor lives; kept, and of no effect: all memory of this engine is host memory."""
        return self._location

    @location.setter
    def location(self, location: TensorLocation) -> None:
        self._location = TensorLocation(location)

    @property
    def allowed_formats(self) -> int:
        """Bit mask of TensorFormat; a build refuses inputs and outputs without LINEAR, all that there is."""
        return self._formats

    @allowed_formats.setter
    def allowed_formats(self, formats: int) -> None:
        self._formats = formats

    @property
    def broadcast_across_batch(self) -> bool:
        """Always False: there is no implicit batch dimension."""
        return False

    @broadcast_across_batch.setter
    def broadcast_across_batch(self, value: bool) -> None:
        if value:
            self._graph.log(Severity.WARNING, f"{self._name}: there is no implicit batch to broadcast across")

    @property
    def dynamic_range(self) -> tuple[float, float] | None:
        """The (minimum, maximum) set for implicit quantization, or None; kept, and of no effect."""
        return self._dynamic_range

    @dynamic_range.setter
    def dynamic_range(self, limits: tuple[float, float]) -> None:
        self.set_dynamic_range(*limits)

    def set_dynamic_range(self, min: float, max: float) -> bool:
        """Set `dynamic_range`. Returns False, leaving it as it was, if `max` is below `min`."""
        if not min <= max:
            self._graph.log(Severity.ERROR, f"{self._name}: dynamic range ({min}, {max}) is empty")
            return False
        self._dynamic_range = (float(min), float(max))
        return True

    def reset_dynamic_range(self) -> None:
        """Undo `set_dynamic_range`."""
        self._dynamic_range = None

    def set_dimension_name(self, index: int, name: str | None) -> None:
        """Name a dimension of a network input; None clears the name.

        Dimensions of one name are equal at run time: the shape of an input that breaks this is refused.
        """
        if self._spec is None or not 0 <= index < len(self._spec.shape):
            self._graph.log(
                Severity.ERROR,
                f"{self._name}: only a dimension of a network input has a name; {index} is none",
            )
        elif name:
            self._dimension_names[index] = text_of(name, "the name of a dimension")
        else:
            self._dimension_names.pop(index, None)

    def get_dimension_name(self, index: int) -> str | None:
        """The name of a dimension, or None."""
        return self._dimension_names.get(index)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r}>"

    def _known(self) -> Known | None:
        return self._graph.known(self)

    def _respecify(self, spec: Known) -> None:
        self._spec = spec
        self._graph.invalidate_tensor(self)

    def _add_consumer(self, node: Node) -> None:
        self._consumers[node] = self._consumers.get(node, 0) + 1

    def _drop_consumer(self, node: Node) -> None:
        self._consumers[node] -= 1
        if not self._consumers[node]:
            del self._consumers[node]
