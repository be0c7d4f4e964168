"""Lengths that only a run shows, such as how many elements are not zero, and values that are made of them.

Before a run such a length is -1 and such a value is not known; that is no reason to refuse a layer that takes it for
a dimension. A value which is not known because it is data is one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import LayerType
from trtllm_ext.embedded.rules.demand import carries_values, dimension_inputs
from trtllm_ext.embedded.rules.known import MAX_HOST_VOLUME, Known, RuleError, can_hold


def check_dimensions(
    kind: LayerType,
    attributes: Mapping[str, Any],
    label: str,
    operands: Sequence[Known | None],
    late: Sequence[bool],
) -> None:
    """Raises RuleError, naming the layer, if a shape depends on values that are data.

    late: for each operand, whether lengths that the run will show are all that is not known of its values.
    """
    for number in dimension_inputs(kind, attributes):
        operand = operands[number] if number < len(operands) else None
        if operand is None or _is_known(operand):
            continue
        if kind == LayerType.ASSERTION:
            raise RuleError(
                f"{label}: an assertion is checked before a run, but its condition depends on data or on lengths that "
                "only a run shows; assert something about the shapes of the inputs"
            )
        if not late[number]:
            raise RuleError(
                f"{label}: input {number} decides a shape, but it depends on data: on values that are computed in a "
                f"way that shapes cannot follow, or on more than {MAX_HOST_VOLUME} numbers"
            )


def is_late(result: Known, kind: LayerType, operands: Sequence[Known | None], late: Sequence[bool]) -> bool:
    """Whether lengths that the run will show are all that is not known of the values of an output.

    result: what is known of it when all operands are known as exactly as before a run; late: see above.
    """
    if result.has_value or not can_hold(result.dtype, result.shape):
        return False
    if kind == LayerType.SHAPE:
        return True
    return (
        carries_values(kind)
        and any(late)
        and all(
            operand is None or is_one or _is_known(operand)
            for operand, is_one in zip(operands, late, strict=True)
        )
    )


def largest(
    kind: LayerType,
    attributes: Mapping[str, Any],
    operands: Sequence[Known | None],
    results: list[Known],
) -> list[Known]:
    """The results with the largest lengths that there can be in place of those that the run will show."""
    if kind == LayerType.PLUGIN_V3:
        largest_outputs: list[Known] = attributes["signature"].largest(operands)
        return largest_outputs
    if kind != LayerType.NON_ZERO:
        return results
    count = math.prod(length for operand in operands if operand is not None for length in operand.shape)
    return [Known(result.dtype, (result.shape[0], count)) for result in results]


def _is_known(operand: Known) -> bool:
    return operand.has_value or 0 in operand.shape
