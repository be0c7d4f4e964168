"""Views of the layers that make or move data."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import DataType, FillOperation, GatherMode, SampleMode
from trtllm_ext.embedded.graph import constant_value
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_dims, as_int, as_order, enum_attribute
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.rules.movement import concatenation_axis
from trtllm_ext.embedded.types import Dims, Permutation, Weights


def _dims_or_invalid(stored: tuple[int, ...] | None) -> Dims:
    return Dims._invalid() if stored is None else Dims(stored)


def _permutation(stored: tuple[int, ...] | None) -> Permutation:
    return Permutation(range(Dims.MAX_DIMS) if stored is None else stored)


class IConstantLayer(ILayer):
    """Weights as a tensor. The network borrows their memory and reads it when an engine is built."""

    __slots__ = ()

    @property
    def shape(self) -> Dims:
        """The shape of the output."""
        return Dims(self._node.attributes["shape"])

    @shape.setter
    def shape(self, shape: Dims) -> None:
        self._replace(self._node.attributes["weights"], as_dims(shape))

    @property
    def weights(self) -> np.ndarray[Any, Any] | Weights:
        """A 1-D view of the weights (see `Weights.numpy`); set it to Weights or an array."""
        weights: Weights = self._node.attributes["weights"]
        return weights.numpy()

    @weights.setter
    def weights(self, weights: Weights | np.ndarray[Any, Any]) -> None:
        self._replace(as_weights(weights), self._node.attributes["shape"])

    def _replace(self, weights: Weights, shape: tuple[int, ...]) -> None:
        self._node.attributes.update(constant_attributes(weights, shape))
        self._node.graph.invalidate(self._node)


def as_weights(weights: Any) -> Weights:
    """Weights, made of an array if need be. Raises TypeError or ValueError for what cannot be weights."""
    return weights if isinstance(weights, Weights) else Weights(weights)


def constant_attributes(weights: Weights, shape: tuple[int, ...]) -> dict[str, Any]:
    """The attributes of a constant layer."""
    return {
        "shape": shape,
        "dtype": weights.dtype,
        "count": weights.size,
        "value": constant_value(weights, shape),
        "weights": weights,
    }


class IConcatenationLayer(ILayer):
    """Tensors one after another."""

    __slots__ = ()

    @property
    def axis(self) -> int:
        """The dimension to join along; until set, the third from last, or 0."""
        axis: int | None = self._node.attributes["axis"]
        data = self.get_input(0)
        known = None if data is None or axis is not None else data._known()
        if known is None:
            return axis or 0
        try:
            return concatenation_axis(axis, len(known.shape))
        except RuleError:
            return 0

    @axis.setter
    def axis(self, axis: int) -> None:
        self._node.set_attribute("axis", as_int(axis))


class IShapeLayer(ILayer):
    """The lengths of the input's dimensions as an INT64 tensor."""

    __slots__ = ()


class IShuffleLayer(ILayer):
    """Transpose, reshape, transpose."""

    __slots__ = ()
    first_transpose = Attribute[Permutation](as_order, "The permutation before the reshape.", _permutation)
    reshape_dims = Attribute[Dims](
        as_dims,
        "The reshape: 0 copies a length, -1 takes the rest. Until set, and while input 1 rules, `len()` of it raises "
        "ValueError, as in TensorRT.",
        _dims_or_invalid,
    )
    second_transpose = Attribute[Permutation](as_order, "The permutation after the reshape.", _permutation)
    zero_is_placeholder = Attribute[bool](
        bool, "Whether 0 in the reshape copies a length; else it is a length of 0."
    )


class ISliceLayer(ILayer):
    """Part of a tensor, with strides; inputs 1, 2, 3 and 5 replace `start`, `shape`, `stride` and `axes`."""

    __slots__ = ()
    start = Attribute[Dims](as_dims, "Where each dimension starts.", _dims_or_invalid)
    shape = Attribute[Dims](as_dims, "The shape of the output.", _dims_or_invalid)
    stride = Attribute[Dims](as_dims, "The step in each dimension; may be negative or 0.", _dims_or_invalid)
    mode = enum_attribute(SampleMode, "What is read out of bounds.")
    axes = Attribute[Dims](
        as_dims,
        "The dimensions that start, shape and stride are for. Until set, for all, and `len()` of it raises ValueError.",
        _dims_or_invalid,
    )


class IGatherLayer(ILayer):
    """Elements at given positions."""

    __slots__ = ()
    axis = Attribute[int](as_int, "The dimension of the data that indices go into; unused in mode ND.")
    num_elementwise_dims = Attribute[int](as_int, "Leading dimensions that data and indices share.")
    mode = enum_attribute(GatherMode, "How indices are read.")


class IFillLayer(ILayer):
    """A tensor of evenly spaced or random numbers; inputs 0, 1, 2 replace `shape`, `alpha` and `beta`."""

    __slots__ = ()
    shape = Attribute[Dims](as_dims, "The shape of the output.", Dims)
    operation = enum_attribute(FillOperation, "How the numbers are made.")
    to_type = enum_attribute(DataType, "The type of the output.")

    @property
    def alpha(self) -> float:
        """The start, the minimum or the mean; an int if one was given."""
        alpha: float = self._node.attributes["alpha"]
        return alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        self._node.set_attribute("alpha", _number(alpha))

    @property
    def beta(self) -> float:
        """The delta, the maximum or the standard deviation; an int if one was given."""
        beta: float = self._node.attributes["beta"]
        return beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self._node.set_attribute("beta", _number(beta))

    def is_alpha_beta_int64(self) -> bool:
        """Whether `alpha` and `beta` are integers."""
        return isinstance(self.alpha, int) and isinstance(self.beta, int)


def _number(value: Any) -> int | float:
    if hasattr(value, "__index__"):
        number = int(value.__index__())
        if not -(2**63) <= number < 2**63:
            raise TypeError(f"expected a number of at most 64 bits, got {value!r}")
        return number
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"expected a number, got {value!r}")
    return float(value)
