"""One layer about to be evaluated: what the functions of every family are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from trtllm_ext.oracle.errors import OracleError
from trtllm_ext.oracle.values import Array, member_name
from trtllm_ext.parallel.communicator import Communicator


def kind_of(layer: Any, trt: Any) -> str:
    """The layer's kind, 'ELEMENTWISE' and the like.

    Read through ILayer, because IActivationLayer and IPoolingLayer have a `type` of their own in its place.
    """
    kind = trt.ILayer.type.__get__(layer, type(layer))
    name = member_name(kind)
    # A member that the bindings have no name for prints as question marks.
    return f"number {int(kind)}" if "?" in name else name


@dataclass(frozen=True)
class Call:
    """A layer, its evaluated inputs (None where an optional input is not set), its first output's type and rank.

    The rank is -1 where the network itself cannot tell it. communicator: to the ranks that evaluate their networks at
    the same time; None if there are none. weights: what the caller knows of weights, see `evaluate`.
    """

    layer: Any
    trt: Any
    kind: str
    inputs: tuple[Array | None, ...]
    output_type: str
    output_rank: int
    communicator: Communicator | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.layer.name)

    def attributes(self, class_name: str) -> Any:
        """The layer as `trt.<class_name>`, so that the attributes of its kind can be read."""
        wanted = getattr(self.trt, class_name)
        if not isinstance(self.layer, wanted):
            self.layer.__class__ = wanted
        return self.layer

    def input(self, index: int) -> Array:
        """A required input; raises OracleError where it is not set."""
        value = self.optional(index)
        if value is None:
            self.refuse(f"input {index} is not set; give it with set_input({index}, tensor)")
        return value

    def optional(self, index: int) -> Array | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def known_weights(self, role: str = "") -> Any:
        """This layer's weights as the caller knows them, or None. role: '' of a constant, else 'kernel' and so on."""
        return self.weights.get(f"{self.name}.{role}" if role else self.name)

    def present(self) -> list[Array]:
        """All inputs, each required."""
        return [self.input(index) for index in range(len(self.inputs))]

    def same_kind(self, *values: Array) -> None:
        """Refuse inputs whose types do not go together; floating types of any width do (they are all float64)."""
        types = sorted({str(value.dtype) for value in values})
        if len(types) > 1:
            self.refuse(f"inputs of types {' and '.join(types)} do not go together; cast one of them")

    def refuse(self, reason: str) -> NoReturn:
        raise OracleError(f"Layer {self.name!r} ({self.kind}): {reason}.")


def axes_of(mask: int, rank: int) -> tuple[int, ...]:
    """The dimensions named by a bit mask, lowest first; bits beyond the rank are the caller's error (ValueError)."""
    if mask >> rank:
        raise ValueError(f"axes mask {mask:#b} names a dimension beyond rank {rank}")
    return tuple(axis for axis in range(rank) if mask >> axis & 1)


def ints(dims: Any) -> tuple[int, ...]:
    return tuple(int(dims[i]) for i in range(len(dims)))


def ints_if_set(dims: Any) -> tuple[int, ...] | None:
    """None where the attribute was never set: TensorRT's dims then have length -1, which Python refuses to tell."""
    try:
        return ints(dims)
    except ValueError:
        return None
