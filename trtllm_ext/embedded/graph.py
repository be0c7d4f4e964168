"""The layers and tensors of a network, and lazy inference over them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtllm_ext.embedded.enums import ErrorCodeTRT, LayerType, Severity
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.rules import Known, OperandError, RuleError, infer
from trtllm_ext.embedded.rules.demand import dimension_inputs, value_inputs
from trtllm_ext.embedded.rules.elementwise import value_of
from trtllm_ext.embedded.rules.known import FLOATS, HostValue, can_hold
from trtllm_ext.embedded.surface.interfaces import IErrorRecorder
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import Weights, volume
from trtllm_ext.errors import BuildError

if TYPE_CHECKING:
    from trtllm_ext.embedded.conditionals import IIfConditional
    from trtllm_ext.embedded.loops import ILoop


class Graph:
    """Nodes and tensors with inference that runs on demand.

    A node is settled once its outputs have been inferred; whoever changes it unsettles it and what follows it. So
    each change costs no more than the inference it undoes, and a chain of any length is settled without recursion.
    A settled node has settled inputs, always; but for the back edge of a recurrence, which decides nothing.
    """

    def __init__(self, logger: ILogger, strongly_typed: bool) -> None:
        self.logger = logger
        self.error_recorder: IErrorRecorder | None = None
        self.strongly_typed = strongly_typed
        self.nodes: list[Node] = []
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []
        self.shape_outputs: list[ITensor] = []
        self.debug_tensors: list[ITensor] = []
        self.constructs: list[ILoop | IIfConditional] = []
        self._output_set: set[ITensor] = set()
        self._shape_tensors: set[ITensor] | None = None

    def log(self, severity: Severity, message: str) -> None:
        """Report through the logger of the Builder."""
        self.logger.log(severity, message)
        if self.error_recorder is not None and int(severity) <= int(Severity.ERROR):
            self.error_recorder.report_error(ErrorCodeTRT.INVALID_ARGUMENT, message)

    def known(self, tensor: ITensor) -> Known | None:
        """What is known of a tensor; None if a layer that it depends on cannot be."""
        node = tensor._node
        if node is None:
            return tensor._spec
        if not node.settled:
            self._settle(node)
        return None if node.known is None else node.known[tensor._index]

    def infer(self, node: Node) -> None:
        """Bring what is known of a node's outputs up to date."""
        if not node.settled:
            self._settle(node)

    def _settle(self, last: Node) -> None:
        stack, entered = [last], set()
        while stack:
            node = stack[-1]
            if node.settled:
                stack.pop()
                continue
            waiting = [
                tensor._node
                for tensor in node.sources
                if tensor is not None and tensor._node is not None and not tensor._node.settled
            ]
            if not waiting:
                self._infer(node)
                stack.pop()
            elif node in entered:
                # Back here, and an input is still open: it waits for this node.
                node.known, node.settled = None, True
                node.error = (
                    f"is part of a cycle: its input comes from {waiting[0].name}, which waits for its output"
                )
                stack.pop()
            else:
                entered.add(node)
                stack.extend(waiting)

    def _infer(self, node: Node) -> None:
        node.known, node.error, node.settled = None, None, True
        operands = []
        for tensor in node.sources:
            known = None if tensor is None else self.known(tensor)
            if tensor is not None and known is None:
                return  # the error is that of a layer before this one
            operands.append(known)
        try:
            node.known = infer(node.kind, node.rule_attributes(), operands, self.strongly_typed)
        except RuleError as error:
            node.error = str(error)
            node.fault_of_operands = isinstance(error, OperandError)
            return
        for tensor in node.outputs:
            wanted, known = tensor._dtype_wanted, node.known[tensor._index]
            if wanted is not None and known.dtype in FLOATS:
                node.known[tensor._index] = Known(wanted, known.shape)

    def invalidate(self, node: Node) -> None:
        """Forget what was inferred of a node and of all that follow it."""
        self._shape_tensors = None
        stack = [node]
        while stack:
            one = stack.pop()
            one.settled = one.reported = False
            for tensor in one.outputs:
                stack.extend(consumer for consumer in tensor._consumers if consumer.settled)

    def invalidate_tensor(self, tensor: ITensor) -> None:
        """Forget what was inferred of a tensor and of all that follows it."""
        if tensor._node is not None:
            self.invalidate(tensor._node)
            return
        self._shape_tensors = None
        for node in list(tensor._consumers):
            self.invalidate(node)

    def refresh(self) -> None:
        """Forget everything inferred: the buffers of constants may have been filled since."""
        for node in self.nodes:
            node.settled = node.reported = False
            if node.kind == LayerType.CONSTANT:
                node.attributes["value"] = constant_value(
                    node.attributes["weights"], node.attributes["shape"]
                )
        self._shape_tensors = None

    def report(self, tensor: ITensor) -> None:
        """Log, once, why nothing is known of a tensor."""
        seen, stack = set(), [tensor._node]
        while stack:
            node = stack.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if node.error is not None and not node.reported:
                node.reported = True
                self.log(Severity.ERROR, f"{node.name}: {node.error}")
            if node.error is None and node.known is None:
                stack.extend(one._node for one in node.inputs if one is not None)

    def ordered(self) -> list[Node]:
        """The nodes in an order of execution: by index, but inputs first.

        Raises BuildError if there is a cycle.
        """
        done: set[Node] = set()
        entered: set[Node] = set()
        order: list[Node] = []
        for root in self.nodes:
            stack = [root]
            while stack:
                node = stack[-1]
                if node in done:
                    stack.pop()
                    continue
                waiting = [
                    tensor._node
                    for tensor in node.sources
                    if tensor is not None and tensor._node is not None and tensor._node not in done
                ]
                if not waiting:
                    done.add(node)
                    order.append(node)
                    stack.pop()
                elif node in entered:
                    raise BuildError(f"{node.name}: is part of a cycle; it waits for {waiting[0].name}")
                else:
                    entered.add(node)
                    stack.extend(reversed(waiting))
        return order

    def is_output(self, tensor: ITensor) -> bool:
        """Whether a tensor is marked as output."""
        return tensor in self._output_set

    def mark(self, tensor: ITensor) -> None:
        """Append to the outputs."""
        self.outputs.append(tensor)
        self._output_set.add(tensor)

    def unmark(self, tensor: ITensor) -> None:
        """Take out of the outputs."""
        self.outputs.remove(tensor)
        self._output_set.remove(tensor)

    def mark_shape_output(self, tensor: ITensor) -> None:
        """Append to the outputs whose values, not data, are asked for."""
        self.shape_outputs.append(tensor)
        self._shape_tensors = None

    def unmark_shape_output(self, tensor: ITensor) -> None:
        """Take out of them."""
        self.shape_outputs.remove(tensor)
        self._shape_tensors = None

    def rename(self, tensor: ITensor, name: str) -> None:
        """Give a tensor another name; inputs and outputs must differ, which a build checks."""
        tensor._name = name

    def is_shape_tensor(self, tensor: ITensor) -> bool:
        """Whether the values of a tensor decide a shape."""
        if self._shape_tensors is None:
            self._shape_tensors = self._find_shape_tensors()
        return tensor in self._shape_tensors

    def _find_shape_tensors(self) -> set[ITensor]:
        stack = list(self.shape_outputs)
        for node in self.nodes:
            stack += [
                tensor
                for number in dimension_inputs(node.kind, node.attributes)
                if number < len(node.inputs) and (tensor := node.inputs[number]) is not None
            ]
        found: set[ITensor] = set()
        while stack:
            tensor = stack.pop()
            if tensor in found:
                continue
            found.add(tensor)
            if tensor._node is not None:
                inputs = tensor._node.inputs
                stack += [
                    one
                    for number in value_inputs(tensor._node.kind, tensor._node.attributes, len(inputs))
                    if number < len(inputs) and (one := inputs[number]) is not None
                ]
        return found


def constant_value(weights: Weights, shape: tuple[int, ...]) -> HostValue | None:
    """The values of a constant as its buffer has them now; None if they are not followed, or do not fit `shape`."""
    if not can_hold(weights.dtype, shape) or volume(shape) != weights.size:
        return None
    array = weights.numpy()
    return None if isinstance(array, Weights) else value_of(array.reshape(shape), weights.dtype)
