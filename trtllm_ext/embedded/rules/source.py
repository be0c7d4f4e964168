"""Rules of layers that make tensors: constant and fill."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import DataType, FillOperation
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    RANGE,
    Known,
    OperandError,
    RuleError,
    can_hold,
    known_with,
)
from trtllm_ext.embedded.rules.movement import length_of_vector
from trtllm_ext.embedded.rules.typing import require_indices

_FLOAT_RANGE = (-(2**127), 2**127)
_FILL_TYPES = {
    FillOperation.LINSPACE: INDICES | {DataType.FLOAT},
    FillOperation.RANDOM_UNIFORM: FLOATS - {DataType.BF16},
    FillOperation.RANDOM_NORMAL: FLOATS - {DataType.BF16},
}


def constant(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Weights of a shape; `value` is their content if it is small enough to follow."""
    shape: tuple[int, ...] = attributes["shape"]
    volume, count = 1, attributes["count"]
    for length in shape:
        if length < 0:
            raise RuleError(f"the shape of a constant must be known, but it is {shape}")
        volume *= length
    if volume != count:
        raise RuleError(
            f"the number of weights, {count}, does not fit the shape {shape} of {volume} elements"
        )
    return [Known(attributes["dtype"], shape, attributes["value"])]


def fill(attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool) -> list[Known]:
    """LINSPACE: element (i, j, ...) is `start + i * delta[0] + j * delta[1] + ...`; or random numbers.

    Input 0 replaces `shape`; inputs 1 and 2 replace start (`alpha`, a scalar) and delta (`beta`, one for each
    dimension), or the two parameters of the random distribution.
    """
    padded: list[Known | None] = [*inputs, None, None, None]
    dims, first, second = padded[:3]
    operation: FillOperation = attributes["operation"]
    dtype: DataType = attributes["to_type"]
    if dtype not in _FILL_TYPES[operation]:
        names = ", ".join(sorted(one.name for one in _FILL_TYPES[operation]))
        raise RuleError(f"operation {operation.name} makes no {dtype.name}; it makes {names}")
    for what in ("alpha", "beta"):
        _check_number(what, attributes[what], dtype)
    shape = _fill_shape(attributes, dims)
    _check_parameters(shape, operation, dtype, first, second)
    if operation != FillOperation.LINSPACE or dtype not in INDICES or not can_hold(dtype, shape):
        return [Known(dtype, shape)]
    start = _parameter(first, attributes["alpha"], 1)
    delta = _parameter(second, attributes["beta"], len(shape))
    if start is None or delta is None:
        return [Known(dtype, shape)]
    elements = [
        start[0] + sum(at * step for at, step in zip(place, delta, strict=True))
        for place in np.ndindex(*shape)
    ]
    return [known_with(dtype, shape, elements)]


def _fill_shape(attributes: Mapping[str, Any], dims: Known | None) -> tuple[int, ...]:
    if dims is None:
        shape: tuple[int, ...] = attributes["shape"]
        if any(length < 0 for length in shape):
            raise RuleError(f"shape {shape} has a negative length; give unknown lengths as input 0")
        return shape
    require_indices(dims, "the dimensions (input 0)")
    rank = length_of_vector(dims, "the dimensions (input 0)")
    if dims.value is None:
        return (-1,) * rank
    lengths = tuple(-1 if length is None else length for length in dims.value)
    if any(length is not None and length < 0 for length in dims.value):
        raise RuleError(f"the dimensions {tuple(dims.value)} have a negative length")
    return lengths


def _check_parameters(
    shape: tuple[int, ...],
    operation: FillOperation,
    dtype: DataType,
    first: Known | None,
    second: Known | None,
) -> None:
    if operation != FillOperation.LINSPACE:
        return
    if first is None and second is None:
        if len(shape) != 1:
            raise RuleError(
                f"LINSPACE of shape {shape} needs inputs 1 and 2; alpha and beta serve one dimension only"
            )
        return
    if first is None or second is None:
        raise RuleError("LINSPACE takes inputs 1 and 2 together: the start, and a delta for each dimension")
    for what, known in (("start (input 1)", first), ("delta (input 2)", second)):
        if known.dtype != dtype:
            raise OperandError(f"the {what} is {known.dtype.name}, but the output is {dtype.name}")
    if first.shape != ():
        raise OperandError(f"the start (input 1) must be a scalar, but its shape is {first.shape}")
    if len(second.shape) != 1 or second.shape[0] not in (-1, len(shape)):
        raise RuleError(
            f"the delta (input 2) must have one element for each dimension of {shape}, but its shape is {second.shape}"
        )


def _check_number(what: str, number: float, dtype: DataType) -> None:
    """Raises RuleError for what the type cannot hold; a float may be infinite or NaN in any type of floats."""
    if dtype in FLOATS and isinstance(number, float):
        return
    low, high = RANGE.get(dtype, _FLOAT_RANGE)
    if not low <= number <= high:
        raise RuleError(f"{what} is {number!r:.40}, which {dtype.name} cannot hold")


def _parameter(given: Known | None, attribute: float, count: int) -> list[int] | None:
    """The integers of a parameter, or None if they are not known."""
    if given is not None:
        return [int(element) for element in given.elements().flat] if given.has_value else None
    if not math.isfinite(attribute) or attribute != int(attribute):
        return None
    return [int(attribute)] * count
