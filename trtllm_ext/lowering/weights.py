"""Weights that a layer holds itself, as constants."""

from typing import Any

import numpy as np

from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.values import Value


def borrowed(layer: Layer, weights: Any, shape: tuple[int, ...], what: str) -> Value:
    """Weights of a layer as a constant of `shape` in their own type; the memory stays the network's.

    weights: a numpy array or a `Weights`, whichever the API gives; what: what they are to the
    layer, by the name of a WeightsRole in lower case.
    Raises LoweringError if they cannot be read or do not fill the shape.
    """
    array = array_of(layer, weights, shape, f"its {what}", what)
    return layer.weights(what.upper(), array, f"{layer.emitter.scope}/{what}")


def array_of(
    layer: Layer, weights: Any, shape: tuple[int, ...], what: str, role: str = ""
) -> np.ndarray[Any, Any]:
    """Weights as an array of `shape`, on their own memory where that is contiguous.

    weights: as in `borrowed()`. what: what the message of a LoweringError calls them. role: see `known_weights`.
    """
    array = weights if isinstance(weights, np.ndarray) else weights.numpy()
    if not isinstance(array, np.ndarray):
        array = known_weights(layer, role)
    if array is None:
        raise layer.refusal(
            f"{what} of type {weights.dtype} cannot be read through this module's Python API; give "
            f"them to lower() as weights={{{key_of(layer, role)!r}: array}}"
        )
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise layer.refusal(f"{what} must fill the shape {shape}, but there are {array.size} elements")
    return np.ascontiguousarray(array).reshape(shape)


def known_weights(layer: Layer, role: str = "") -> np.ndarray[Any, Any] | None:
    """A layer's weights as the caller of `lower()` knows them. role: '' of a constant, else 'kernel' and so on."""
    known: np.ndarray[Any, Any] | None = layer.network.weights.get(key_of(layer, role))
    return known


def key_of(layer: Layer, role: str) -> str:
    """The key of weights that are known by name: that of the layer, and their role but for a constant's."""
    return f"{layer.view.name}.{role}" if role else layer.view.name


def packed_bytes(layer: Layer, weights: Any) -> np.ndarray[Any, Any] | None:
    """The bytes of a constant of 4 bits an element, two to a byte; None for other types."""
    if (
        isinstance(weights, np.ndarray)
        or not weights.dtype.name.endswith("4")
        or weights.dtype.name == "INT64"
    ):
        return None
    if hasattr(weights, "packed_bytes"):
        packed: np.ndarray[Any, Any] = weights.packed_bytes()
        return packed
    return known_weights(layer)
