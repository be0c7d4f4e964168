"""The rule of assertions."""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import Known, OperandError, RuleError
from trtllm_ext.embedded.rules.typing import require_type


def assertion(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """No output; raises RuleError with the message if an element of the condition is certainly false."""
    [condition] = inputs
    require_type(condition.dtype, (DataType.BOOL,), "an assertion")
    if len(condition.shape) > 1:
        raise OperandError(
            f"the condition of an assertion must be 0-D or 1-D, but its shape is {condition.shape}"
        )
    if condition.value is not None and any(element is False for element in condition.value.flat):
        message = attributes["message"]
        raise RuleError(f"assertion failed{': ' if message else ''}{message}")
    return []
