"""The collective layers of a network on their way into a plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.plan import CollectiveStep, ProfileRecord, TensorRecord
from trtllm_ext.embedded.profile_check import inputs_at
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.tensor_types import element_type_of
from trtllm_ext.errors import BuildError

if TYPE_CHECKING:
    from trtllm_ext.lowering.steps import CollectiveStep as LoweredCollective


def settle_collectives(
    network: INetworkDefinition,
    steps: Sequence[LoweredCollective],
    tensors: Sequence[TensorRecord],
    profiles: Sequence[ProfileRecord],
) -> Iterator[CollectiveStep]:
    """The steps of a network's collective layers.

    steps: where the lowering has put them. Raises BuildError for one whose size only a run shows: it could be another
    on each rank.
    """
    read = [_input_of(step.layer._node) for step in steps]
    largest = _largest(network, read, tensors, profiles) if read else []
    for step, tensor, elements in zip(steps, read, largest, strict=True):
        node: Node = step.layer._node
        yield CollectiveStep(
            layer=node.name,
            operation=step.layer.dist_collective_op.name,
            reduce_op=step.layer.reduce_op.name,
            group=step.layer.groups,
            input=step.input,
            output=step.output,
            dtype=element_type_of(tensor.dtype, tensor.name).name,
            max_elements=elements,
        )


def _input_of(node: Node) -> ITensor:
    [tensor] = node.inputs
    assert tensor is not None  # for the type checker: its rule has seen to it
    return tensor


def _largest(
    network: INetworkDefinition,
    read: Sequence[ITensor],
    tensors: Sequence[TensorRecord],
    profiles: Sequence[ProfileRecord],
) -> list[int]:
    """The most elements that each tensor has at the largest inputs of a profile.

    Where the largest of all inputs do not go together, at the optimum of that profile: other inputs that it allows may
    then give more. Runs take any size; only the trial when the engine is loaded goes no further.
    """
    names = {str(number): tensor for number, tensor in enumerate(read)}
    program = ShapeProgram.of(network, names)
    largest = [0] * len(read)
    for profile in profiles:
        try:
            shapes = program.run(*inputs_at(tensors, profile, 2))
        except RuleError:
            # The optimum always goes together.
            shapes = program.run(*inputs_at(tensors, profile, 1))
        for number, (name, tensor) in enumerate(names.items()):
            if -1 in shapes[name]:
                raise BuildError(
                    f"the collective over {tensor.name!r} takes a tensor whose shape depends on data, so it could "
                    "differ between ranks; take one whose shape follows from the shapes of the inputs."
                )
            largest[number] = max(largest[number], math.prod(shapes[name]))
    return largest
