"""What a plan keeps of its collectives: steps that all ranks of a group do together."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.enums import CollectiveOperation, ReduceOperation
from trtllm_ext.embedded.plan.strict_json import Fields
from trtllm_ext.embedded.rules.collective import check_collective
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.tensor_types import element_type_named
from trtllm_ext.errors import EngineError

_MAX_RANK = 2**20
# More than any memory has.
_MAX_ELEMENTS = 2**48


@dataclass(frozen=True)
class CollectiveStep:
    """Do `operation` over `group` with the named value, of elements `dtype`, and make the named value.

    operation, reduce_op: names of CollectiveOperation and ReduceOperation. layer: of the network, for messages.
    max_elements: of this rank's input, at the largest shapes of all profiles; at the optimum where those do not go
    together, so that a run can have more.
    """

    layer: str
    operation: str
    reduce_op: str
    group: tuple[int, ...]
    input: str
    output: str
    dtype: str
    max_elements: int

    @property
    def inputs(self) -> tuple[str, ...]:
        """The value taken."""
        return (self.input,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The value made."""
        return (self.output,)

    def to_json(self) -> dict[str, Any]:
        """The node of this step."""
        return {
            "kind": "collective",
            "layer": self.layer,
            "operation": self.operation,
            "reduce_op": self.reduce_op,
            "group": list(self.group),
            "input": self.input,
            "output": self.output,
            "type": self.dtype,
            "max_elements": self.max_elements,
        }


@dataclass(frozen=True)
class CollectiveInfo:
    """The collectives of an engine that are alike but for their sizes: how many, and the largest.

    operation, reduce_op: names of CollectiveOperation and ReduceOperation. dtype: float32, float16,
    bfloat16, int32 and so on, as in numpy. max_elements: of one rank's input.
    """

    operation: str
    reduce_op: str
    group: tuple[int, ...]
    dtype: str
    max_elements: int
    count: int


def read_collective_step(fields: Fields) -> CollectiveStep:
    """The inverse of `CollectiveStep.to_json()`. Raises EngineError for anything that it did not write."""
    step = CollectiveStep(
        layer=fields.text("layer"),
        operation=_member(fields, "operation", CollectiveOperation),
        reduce_op=_member(fields, "reduce_op", ReduceOperation),
        group=fields.integers("group", high=_MAX_RANK),
        input=fields.text("input"),
        output=fields.text("output"),
        dtype=fields.text("type"),
        max_elements=fields.integer("max_elements", high=_MAX_ELEMENTS),
    )
    try:
        check_collective(
            CollectiveOperation[step.operation],
            ReduceOperation[step.reduce_op],
            step.group,
            element_type_named(step.dtype).dtype,
        )
    except RuleError as error:
        raise EngineError(f"the engine has a wrong collective at {fields.where}: {error}.") from None
    return step


def _member(fields: Fields, key: str, kind: type[CollectiveOperation] | type[ReduceOperation]) -> str:
    name = fields.text(key)
    if name not in kind.__members__:
        fields.refuse(key, name, f"a {kind.__name__}")
    return name


def distinct_collectives(steps: Iterable[CollectiveStep]) -> tuple[CollectiveInfo, ...]:
    """The kinds of collectives, in the order in which they are first run."""
    found: dict[tuple[str, str, tuple[int, ...], str], list[int]] = {}
    for step in steps:
        found.setdefault((step.operation, step.reduce_op, step.group, step.dtype), []).append(
            step.max_elements
        )
    return tuple(CollectiveInfo(*key, max(sizes), len(sizes)) for key, sizes in found.items())
