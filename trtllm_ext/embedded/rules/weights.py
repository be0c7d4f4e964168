"""Weights that a layer holds itself, as the rules see them: only type and number decide anything."""

from typing import NamedTuple

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import FLOATS, Known, RuleError


class StoredWeights(NamedTuple):
    """What a shape program remembers of `Weights`, and what of them is read here."""

    dtype: DataType
    size: int


def check_weights(weights: StoredWeights, count: int, data: Known, what: str, strongly_typed: bool) -> None:
    """Raises RuleError unless there are `count` weights of a type that goes with the data."""
    if weights.size != count:
        raise RuleError(f"{what} must have {count} weights, not {weights.size}")
    if strongly_typed and weights.dtype != data.dtype:
        raise RuleError(
            f"{what} is {weights.dtype.name} where the input is {data.dtype.name}; a strongly typed network converts "
            "nothing by itself. Give weights of the input's type."
        )
    if weights.dtype not in FLOATS:
        raise RuleError(f"{what} is {weights.dtype.name}; weights must be floating point")
