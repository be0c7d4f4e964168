"""ILayer: what a user holds of a layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

from trtllm_ext.embedded.enums import DataType, LayerType, NativeEnum, Severity
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import Dims, Permutation, text_of

T = TypeVar("T")
E = TypeVar("E", bound=NativeEnum)


class ILayer:
    """A layer of a network, seen without its kind.

    All kinds have one memory layout, so `layer.__class__ = IElementWiseLayer` turns this view into one with the
    attributes of that kind. Two views of one layer are equal.
    """

    __slots__ = ("__weakref__", "_node")

    _node: Node

    def __init__(self) -> None:
        raise TypeError(
            f"{type(self).__name__}: No constructor defined! Layers are made by the add_ methods."
        )

    @classmethod
    def _view(cls, node: Node) -> ILayer:
        layer = object.__new__(cls)
        layer._node = node
        return layer

    @property
    def name(self) -> str:
        """The name; the outputs, named after the layer when it was made, keep theirs when it changes."""
        return self._node.name

    @name.setter
    def name(self, name: str) -> None:
        self._node.name = text_of(name, "the name of a layer")

    @property
    def metadata(self) -> str:
        """Free text that goes into the engine with the layer."""
        return self._node.metadata

    @metadata.setter
    def metadata(self, metadata: str) -> None:
        self._node.metadata = text_of(metadata, "the metadata of a layer")

    @property
    def type(self) -> Any:
        """The LayerType; of an IActivationLayer the ActivationType, as in TensorRT."""
        return self._node.kind

    @property
    def num_inputs(self) -> int:
        """The number of inputs, unset ones between set ones included."""
        return len(self._node.inputs)

    @property
    def num_outputs(self) -> int:
        """The number of outputs."""
        return len(self._node.outputs)

    def get_input(self, index: int) -> ITensor | None:
        """Input `index`, or None if it is not set or there is none."""
        inputs = self._node.inputs
        return inputs[index] if 0 <= index < len(inputs) else None

    def get_output(self, index: int) -> ITensor | None:
        """Output `index`, or None if there is none."""
        outputs = self._node.outputs
        return outputs[index] if 0 <= index < len(outputs) else None

    def set_input(self, index: int, tensor: ITensor | None) -> None:
        """Make `tensor` input `index`; it may come from a layer made later. None unsets an optional input.

        An index the kind does not have, or a tensor of another network, changes nothing and logs an error.
        """
        if tensor is not None and not isinstance(tensor, ITensor):
            raise TypeError(f"an input must be an ITensor, not {tensor!r}")
        node = self._node
        maximum = _MAX_INPUTS.get(node.kind, len(node.inputs))
        if not 0 <= index < maximum:
            node.graph.log(Severity.ERROR, f"{node.name}: there is no input {index}; there are {maximum}")
        elif tensor is not None and tensor._graph is not node.graph:
            node.graph.log(Severity.ERROR, f"{node.name}: {tensor.name} belongs to another network")
        else:
            node.connect(index, tensor)

    @property
    def precision(self) -> DataType:
        """The type to compute in, FLOAT unless set. In a strongly typed network setting it only logs an error."""
        return DataType.FLOAT if self._node.precision is None else self._node.precision

    @precision.setter
    def precision(self, precision: DataType) -> None:
        if self._may_set_types("precision", precision):
            self._node.precision = precision

    @property
    def precision_is_set(self) -> bool:
        """Whether `precision` was set."""
        return self._node.precision is not None

    def reset_precision(self) -> None:
        """Undo setting `precision`."""
        self._node.precision = None

    @property
    def num_ranks(self) -> int:
        """How many ranks compute the layer: 1, but for a collective the size of its group."""
        ranks: int = self._node.attributes.get("num_ranks", 1)
        return ranks

    @num_ranks.setter
    def num_ranks(self, ranks: int) -> None:
        count, node = as_int(ranks), self._node
        if "num_ranks" in node.attributes and count >= 1:
            node.set_attribute("num_ranks", count)
        elif count != 1:
            node.graph.log(
                Severity.ERROR,
                f"{node.name}: num_ranks={count} cannot be set; it is 1, and more for an IDistCollectiveLayer only",
            )

    def set_output_type(self, index: int, dtype: DataType) -> None:
        """Ask for the type of an output. In a strongly typed network this only logs an error."""
        if self._may_set_types("output type", dtype) and self._has_output(index):
            self._node.output_types[index] = dtype
            self._node.graph.invalidate(self._node)

    def get_output_type(self, index: int) -> DataType:
        """The type of an output; FLOAT if there is no such output."""
        tensor = self.get_output(index)
        return DataType.FLOAT if tensor is None else tensor.dtype

    def output_type_is_set(self, index: int) -> bool:
        """Whether the type of an output was asked for."""
        return self._has_output(index) and self._node.output_types[index] is not None

    def reset_output_type(self, index: int) -> None:
        """Undo `set_output_type`."""
        if self._has_output(index):
            self._node.output_types[index] = None
            self._node.graph.invalidate(self._node)

    def __eq__(self, other: object) -> bool:
        return self._node is other._node if isinstance(other, ILayer) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._node)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._node.name!r}>"

    def _has_output(self, index: int) -> bool:
        if 0 <= index < len(self._node.outputs):
            return True
        self._node.graph.log(Severity.ERROR, f"{self.name}: there is no output {index}")
        return False

    def _may_set_types(self, what: str, dtype: DataType) -> bool:
        if not isinstance(dtype, DataType):
            raise TypeError(f"the {what} of a layer must be a DataType, not {dtype!r}")
        if self._node.graph.strongly_typed:
            self._node.graph.log(
                Severity.ERROR,
                f"{self.name}: the {what} of a layer cannot be set in a strongly typed network. Add a cast.",
            )
            return False
        return True


# Kinds that take optional inputs; all others have as many as they were made with.
_MAX_INPUTS = {
    LayerType.SHUFFLE: 2,
    LayerType.SLICE: 6,
    LayerType.FILL: 3,
    LayerType.CONVOLUTION: 3,
    LayerType.DECONVOLUTION: 3,
    LayerType.RESIZE: 2,
    LayerType.QUANTIZE: 3,
    LayerType.DEQUANTIZE: 3,
    LayerType.RECURRENCE: 2,
    LayerType.LOOP_OUTPUT: 2,
    LayerType.TOPK: 2,
}


class Attribute(Generic[T]):
    """A property of a layer kind, kept in the node under its own name.

    check: raises TypeError or ValueError for what cannot be the value, and gives what is stored.
    show: turns what is stored into what the property gives.
    """

    def __init__(self, check: Callable[[Any], Any], doc: str, show: Callable[[Any], T] | None = None) -> None:
        self._check = check
        self._show = show
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, layer: None, owner: type) -> Attribute[T]: ...
    @overload
    def __get__(self, layer: ILayer, owner: type) -> T: ...
    def __get__(self, layer: ILayer | None, owner: type) -> Attribute[T] | T:
        if layer is None:
            return self
        try:
            stored = layer._node.attributes[self._name]
        except KeyError:
            raise AttributeError(
                f"{layer._node.name} is a {layer._node.kind}; it has no {owner.__name__}.{self._name}"
            ) from None
        value: T = stored if self._show is None else self._show(stored)
        return value

    def __set__(self, layer: ILayer, value: Any) -> None:
        if self._name not in layer._node.attributes:
            raise AttributeError(f"{layer._node.name} is a {layer._node.kind}; it has no {self._name}")
        layer._node.set_attribute(self._name, self._check(value))


def enum_attribute(kind: type[E], doc: str) -> Attribute[E]:
    """An attribute that is a member of `kind`."""
    return Attribute(member_of(kind), doc)


def member_of(kind: type[E]) -> Callable[[Any], E]:
    """A check that a value is a member of `kind`."""

    def check(value: Any) -> E:
        if not isinstance(value, kind):
            raise TypeError(f"expected a value of {kind.__name__}, got {value!r}")
        return value

    return check


def as_int(value: Any) -> int:
    """A check for integers; bools and numpy's integers count, floats do not."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"expected an int, got {value!r}")
    return int(value.__index__())


def as_mask(value: Any) -> int:
    """A check for a bit mask of dimensions: an unsigned 32-bit integer."""
    mask = as_int(value)
    if not 0 <= mask < 2**32:
        raise TypeError(f"expected a bit mask of 32 bits, got {value!r}")
    return mask


def as_float(value: Any) -> float:
    """A check for numbers."""
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)


def as_dims(value: Any) -> tuple[int, ...]:
    """A check for dims, stored as a tuple."""
    return tuple(Dims(value))


def as_order(value: Any) -> tuple[int, ...]:
    """A check for a permutation, stored as its 8 entries."""
    return tuple(value if isinstance(value, Permutation) else Permutation(value))
