"""Marking tensors of a network: as outputs, as outputs of shapes, as debug tensors."""

from __future__ import annotations

from typing import Any

from trtllm_ext.embedded.enums import DataType, Severity
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.tensor import ITensor

_SHAPE_TYPES = frozenset({DataType.INT32, DataType.INT64})


class Marks:
    """The part of INetworkDefinition that marks tensors."""

    _graph: Graph

    def mark_output(self, tensor: ITensor) -> None:
        """Make a tensor an output. One that is an output already only gets a warning."""
        if not self._owns(tensor, "mark_output"):
            return
        if tensor.is_network_output:
            self._graph.log(Severity.WARNING, f"{tensor.name} is an output already")
        else:
            self._graph.mark(tensor)

    def unmark_output(self, tensor: ITensor) -> None:
        """Undo `mark_output`."""
        if self._owns(tensor, "unmark_output") and tensor.is_network_output:
            self.unmark_output_for_shapes(tensor)
            if tensor.is_network_output:
                self._graph.unmark(tensor)

    def mark_output_for_shapes(self, tensor: ITensor) -> bool:
        """Make a tensor that has the values of a shape an output: INT32 or INT64, of at most one static dimension.

        False for one that is an output already, and, with an error in the log, for one that is not of that kind.
        """
        if not self._owns(tensor, "mark_output_for_shapes") or tensor.is_network_output:
            return False
        known = self._graph.known(tensor)
        if known is None or known.dtype not in _SHAPE_TYPES or len(known.shape) > 1 or -1 in known.shape:
            kind = "cannot be inferred" if known is None else f"is {known.dtype.name} of shape {known.shape}"
            self._graph.log(
                Severity.ERROR,
                f"mark_output_for_shapes: {tensor.name} {kind}; it must be INT32 or INT64, a scalar or of one static "
                "dimension",
            )
            return False
        self._graph.mark(tensor)
        self._graph.mark_shape_output(tensor)
        return True

    def unmark_output_for_shapes(self, tensor: ITensor) -> bool:
        """Undo `mark_output_for_shapes`. Returns whether there was anything to undo."""
        if not self._owns(tensor, "unmark_output_for_shapes") or tensor not in self._graph.shape_outputs:
            return False
        self._graph.unmark_shape_output(tensor)
        self._graph.unmark(tensor)
        return True

    def mark_debug(self, tensor: ITensor) -> bool:
        """Let runs show a tensor to a debug listener, an input or output too."""
        if not self._owns(tensor, "mark_debug"):
            return False
        if tensor not in self._graph.debug_tensors:
            self._graph.debug_tensors.append(tensor)
        return True

    def unmark_debug(self, tensor: ITensor) -> bool:
        """Undo `mark_debug`. Returns whether there was anything to undo."""
        if not self._owns(tensor, "unmark_debug") or tensor not in self._graph.debug_tensors:
            return False
        self._graph.debug_tensors.remove(tensor)
        return True

    def is_debug_tensor(self, tensor: ITensor) -> bool:
        """Whether a tensor is marked by `mark_debug`."""
        return tensor in self._graph.debug_tensors

    def mark_unfused_tensors_as_debug_tensors(self) -> bool:
        """Log that this cannot be done, and return False: what ONNX Runtime fuses is not known."""
        self._graph.log(
            Severity.ERROR,
            "mark_unfused_tensors_as_debug_tensors is not supported by the embedded engine, which does not know what "
            "ONNX Runtime fuses; mark the tensors to see with mark_debug().",
        )
        return False

    def unmark_unfused_tensors_as_debug_tensors(self) -> bool:
        """True: no tensor is marked that way."""
        return True

    def _owns(self, tensor: Any, method: str) -> bool:
        if tensor is None:
            self._graph.log(Severity.ERROR, f"{method} was given None instead of a tensor")
            return False
        if not isinstance(tensor, ITensor):
            raise TypeError(f"{method} takes an ITensor, not {tensor!r}")
        if tensor._graph is not self._graph:
            self._graph.log(
                Severity.ERROR, f"{method} was given {tensor.name}, which belongs to another network"
            )
            return False
        return True
