"""The plugin layers of a network on their way into a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.plan import PluginRecord, PluginStep, ProfileRecord, TensorRecord
from trtllm_ext.embedded.plugins.preparing import Range, Ranges, Shape, prepare
from trtllm_ext.embedded.profile_check import inputs_at
from trtllm_ext.embedded.rules.known import RuleError
from trtllm_ext.embedded.rules.plugin import Signature
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.tensor import ITensor

if TYPE_CHECKING:
    from trtllm_ext.lowering.steps import PluginStep as LoweredPlugin


def settle_plugins(
    network: INetworkDefinition,
    steps: Sequence[LoweredPlugin],
    tensors: Sequence[TensorRecord],
    profiles: Sequence[ProfileRecord],
    aliasing: bool,
) -> tuple[tuple[PluginRecord, ...], Iterator[PluginStep]]:
    """The records and the steps of a network's plugin layers.

    steps: where the lowering has put them. aliasing: whether outputs may lie in the memory of inputs.
    Raises BuildError naming the layer, with what its plugin did wrong.
    """
    if not steps:
        return (), iter(())
    nodes: list[Node] = [step.layer._node for step in steps]
    shapes = _Shapes(network, nodes, tensors)
    found = [
        prepare(
            node,
            (step.inputs, step.outputs),
            number,
            [shapes.of(node, profile) for profile in profiles],
            aliasing,
        )
        for number, (node, step) in enumerate(zip(nodes, steps, strict=True))
    ]
    return tuple(record for record, _ in found), iter([step for _, step in found])


class _Shapes:
    """Shapes of the plugins' tensors at the ends and the optimum of a profile; at most, where only a run shows them."""

    def __init__(
        self, network: INetworkDefinition, nodes: Sequence[Node], tensors: Sequence[TensorRecord]
    ) -> None:
        asked = {tensor for node in nodes for tensor in (*node.inputs, *node.outputs) if tensor is not None}
        self._names: Mapping[ITensor, str] = {tensor: str(number) for number, tensor in enumerate(asked)}
        self._program = ShapeProgram.of(network, {name: tensor for tensor, name in self._names.items()})
        self._inputs = [tensor for tensor in tensors if tensor.is_input]
        self._found: dict[tuple[int, int], Mapping[str, Shape]] = {}

    def of(self, node: Node, profile: ProfileRecord) -> Ranges:
        """The shapes of one plugin layer's tensors."""
        low, opt, high = (self._range(node, profile, point) for point in range(3))
        return low, opt, high

    def _range(self, node: Node, profile: ProfileRecord, point: int) -> Range:
        shapes = self._at(profile, point)
        signature: Signature = node.attributes["signature"]
        given = node.inputs[: signature.num_inputs]
        return Range(
            [shapes[self._names[tensor]] for tensor in given if tensor is not None],
            [shapes[self._names[tensor]] for tensor in node.outputs],
        )

    def _at(self, profile: ProfileRecord, point: int) -> Mapping[str, Shape]:
        key = (id(profile), point)
        if key not in self._found:
            try:
                self._found[key] = self._program.run(*inputs_at(self._inputs, profile, point), at_most=True)
            except RuleError:
                # The least or the largest of all inputs need not go together; the optimum does.
                self._found[key] = self._program.run(*inputs_at(self._inputs, profile, 1), at_most=True)
        return self._found[key]
