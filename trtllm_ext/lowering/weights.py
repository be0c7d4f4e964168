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
    array = array_of(layer, weights, shape, f"its {what}")
    return layer.weights(what.upper(), array, f"{layer.emitter.scope}/{what}")


def array_of(layer: Layer, weights: Any, shape: tuple[int, ...], what: str) -> np.ndarray[Any, Any]:
    """Weights as an array of `shape`, on their own memory where that is contiguous.

    weights: as in `borrowed()`. what: what the message of a LoweringError calls them.
    """
    array = weights if isinstance(weights, np.ndarray) else weights.numpy()
    if not isinstance(array, np.ndarray) and layer.view.name in layer.network.weights:
        array = layer.network.weights[layer.view.name]
    if not isinstance(array, np.ndarray):
        raise layer.refusal(
            f"{what} of type {weights.dtype} cannot be read through this module's Python API; give "
            "them by the layer's name: lower(..., weights={name: array})"
        )
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise layer.refusal(f"{what} must fill the shape {shape}, but there are {array.size} elements")
    return np.ascontiguousarray(array).reshape(shape)
