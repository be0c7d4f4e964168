"""INetworkDefinition: what a builder builds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.embedded.adders import LayerAdders
from trtllm_ext.embedded.control_check import control_errors
from trtllm_ext.embedded.enums import DataType, LayerType, NetworkDefinitionCreationFlag, Severity
from trtllm_ext.embedded.graph import Graph
from trtllm_ext.embedded.layers import IActivationLayer, ILayer, IPoolingLayer
from trtllm_ext.embedded.logger import ILogger
from trtllm_ext.embedded.marks import Marks
from trtllm_ext.embedded.node import Node
from trtllm_ext.embedded.refittable import WeightNames
from trtllm_ext.embedded.rules import Known
from trtllm_ext.embedded.surface.interfaces import IErrorRecorder
from trtllm_ext.embedded.surface.lifetime import Lifetime
from trtllm_ext.embedded.surface.recorded import as_recorder
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.types import Dims, storage_dtype, text_of

_MAX_NAME = 4096
_NO_INPUTS = frozenset({DataType.INT4, DataType.FP4, DataType.E8M0})


class INetworkDefinition(LayerAdders, Marks, WeightNames, Lifetime):
    """A network under construction; made by `Builder.create_network(flags)`.

    logger: the Builder's. flags: bits of NetworkDefinitionCreationFlag.

    A method that cannot do what it is asked logs an error and returns None, as in TensorRT; arguments of the wrong
    Python type raise TypeError. Shapes and types are inferred when asked for, so attributes and inputs may be
    changed at any time, and an input may come from a layer made later.
    """

    def __init__(self, logger: ILogger, flags: int = 0) -> None:
        self._flags = int(flags)
        strongly_typed = bool(self._flags >> int(NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)
        super().__init__(Graph(logger, strongly_typed))
        self._name_no_weights()
        self._name = "Unnamed Network 0"
        self._builder: Any = None

    @property
    def builder(self) -> Any:
        """The Builder that made this network."""
        return self._builder

    @property
    def name(self) -> str:
        """The name; the engine gets it."""
        return self._name

    @name.setter
    def name(self, name: str) -> None:
        self._name = text_of(name, "the name of a network")

    @property
    def flags(self) -> int:
        """The flags given at creation."""
        return self._flags

    def get_flag(self, flag: NetworkDefinitionCreationFlag) -> bool:
        """Whether a flag was given at creation."""
        return bool(self._flags >> int(flag) & 1)

    @property
    def has_implicit_batch_dimension(self) -> bool:
        """Always False."""
        return False

    @property
    def error_recorder(self) -> IErrorRecorder | None:
        """Told of every error of this network; None, the default, for nobody. Other objects raise TypeError."""
        return self._graph.error_recorder

    @error_recorder.setter
    def error_recorder(self, recorder: IErrorRecorder | None) -> None:
        self._graph.error_recorder = as_recorder(recorder)

    @property
    def num_layers(self) -> int:
        """The number of layers."""
        return len(self._graph.nodes)

    def __len__(self) -> int:
        return len(self._graph.nodes)

    def __getitem__(self, index: int) -> ILayer:
        """Layer `index`, negative ones from the end. Raises IndexError if there is none."""
        layer = self.get_layer(range(len(self))[index])
        assert layer is not None  # for the type checker
        return layer

    @property
    def num_inputs(self) -> int:
        """The number of inputs."""
        return len(self._graph.inputs)

    @property
    def num_outputs(self) -> int:
        """The number of outputs."""
        return len(self._graph.outputs)

    def get_layer(self, index: int) -> ILayer | None:
        """Layer `index`, in order of creation, or None if there is none.

        The same object each time, and the one that the add_ method gave. Only for an activation or a pooling it is
        another view than that, since there `type` would hide the layer type.
        """
        if not 0 <= index < len(self._graph.nodes):
            return self._refuse_index("layer", index, len(self._graph.nodes))
        node = self._graph.nodes[index]
        if node.kind not in (LayerType.ACTIVATION, LayerType.POOLING) and node.view is not None:
            return node.view
        # A view that has been turned into one with a `type` of its own no longer tells its kind: give a fresh one.
        if node.plain_view is None or isinstance(node.plain_view, IActivationLayer | IPoolingLayer):
            node.plain_view = ILayer._view(node)
        return node.plain_view

    def get_input(self, index: int) -> ITensor | None:
        """Input `index`, or None if there is none."""
        inputs = self._graph.inputs
        return inputs[index] if 0 <= index < len(inputs) else self._refuse_index("input", index, len(inputs))

    def get_output(self, index: int) -> ITensor | None:
        """Output `index`, in the order they were marked, or None if there is none."""
        outputs = self._graph.outputs
        return (
            outputs[index] if 0 <= index < len(outputs) else self._refuse_index("output", index, len(outputs))
        )

    def add_input(self, name: str, dtype: DataType, shape: Dims | Sequence[int]) -> ITensor | None:
        """Add an input; -1 in `shape` is a length known at run time, within an optimization profile."""
        if not isinstance(name, str) or not isinstance(dtype, DataType):
            raise TypeError(
                f"add_input takes (name: str, dtype: DataType, shape: Dims), not ({name!r}, {dtype!r})"
            )
        text_of(name, "the name of an input")
        dims = tuple(Dims(shape))
        if not name or len(name) > _MAX_NAME:
            return self._refuse(
                f"the name of an input must have 1 to {_MAX_NAME} characters, not {len(name)}"
            )
        if any(tensor.name == name for tensor in self._graph.inputs):
            return self._refuse(f"there is an input {name!r} already; names must differ")
        if any(length < -1 for length in dims):
            return self._refuse(f"input {name!r} has shape {dims}; a length is 0 or more, or -1 for unknown")
        if dtype in _NO_INPUTS:
            return self._refuse(f"input {name!r} cannot be {dtype.name}")
        tensor = ITensor._make(self._graph, name, None, len(self._graph.inputs), Known(dtype, dims))
        self._graph.inputs.append(tensor)
        return tensor

    def remove_tensor(self, tensor: ITensor) -> None:
        """Remove an input that no layer uses; any other tensor stays, with a warning."""
        if not self._owns(tensor, "remove_tensor"):
            return
        if tensor._consumers or tensor._node is not None:
            self._graph.log(Severity.WARNING, f"{tensor.name} is the input or output of a layer, so it stays")
            return
        if tensor.is_network_output:
            self._graph.unmark(tensor)
        self._graph.inputs.remove(tensor)

    def _ordered_layers(self) -> list[ILayer]:
        """The layers in an order of execution, as their own views. Raises BuildError if there is a cycle."""
        return [self._view_of(node) for node in self._graph.ordered()]

    def _errors(self) -> list[str]:
        """All that keeps this network from being built, one sentence each, naming the layer or the tensor.

        Constants are read again first: their buffers may have been filled since they were added.
        """
        graph = self._graph
        graph.refresh()
        if not graph.outputs:
            return ["the network has no outputs; mark at least one tensor with mark_output()"]
        for tensor in (*graph.outputs, *graph.debug_tensors):
            graph.known(tensor)
        errors = []
        for node in graph.nodes:
            graph.infer(node)
            if node.error is not None:
                errors.append(f"{node.name}: {node.error}")
        errors += control_errors(graph)
        errors += self._naming_errors()
        errors += [
            f"{node.name}: {node.attributes['dtype'].name} weights cannot be read"
            for node in graph.nodes
            if node.kind == LayerType.CONSTANT and not _can_store(node)
        ]
        return errors

    def _naming_errors(self) -> list[str]:
        seen: set[str] = set()
        errors = []
        outputs = list(self._graph.outputs)
        outputs += [tensor for tensor in self._graph.debug_tensors if not tensor.is_network_output]
        for tensor in (*self._graph.inputs, *(each for each in outputs if not each.is_network_input)):
            if not tensor.name:
                errors.append("an input or output has an empty name")
            elif tensor.name in seen:
                errors.append(
                    f"two inputs, outputs or debug tensors are named {tensor.name!r}; names must differ"
                )
            seen.add(tensor.name)
        return errors

    def _refuse_index(self, what: str, index: int, count: int) -> Any:
        return self._refuse(f"there is no {what} {index}; the network has {count}")

    def __repr__(self) -> str:
        return f"<INetworkDefinition {self.name!r}: {self.num_layers} layers>"


def _can_store(node: Node) -> bool:
    dtype = node.attributes["dtype"]
    try:
        return dtype == DataType.INT4 or isinstance(storage_dtype(dtype), np.dtype)
    except TypeError:
        return False
