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
    array = weights if isinstance(weights, np.ndarray) else weights.numpy()
    if not isinstance(array, np.ndarray):
        raise layer.refusal(
            f"its {what} of type {weights.dtype} cannot be read through this module's Python API"
        )
    if array.size != int(np.prod(shape, dtype=np.int64)):
        raise layer.refusal(f"its {what} of shape {shape} does not fit its {array.size} weights")
    return layer.weights(
        what.upper(), np.ascontiguousarray(array).reshape(shape), f"{layer.emitter.scope}/{what}"
    )
