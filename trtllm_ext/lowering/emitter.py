"""Writes ONNX nodes and initializers: names, casts, constants inside and outside the model."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from trtllm_ext.lowering.constants import INLINE_BYTES, Constants
from trtllm_ext.lowering.element_types import (
    DOUBLE,
    FLOAT,
    FP8,
    INT64,
    NARROW_FLOATS,
    numpy_type_of,
)
from trtllm_ext.lowering.names import Names
from trtllm_ext.lowering.open_graph import OpenGraph
from trtllm_ext.lowering.steps import OnnxSegment, Source
from trtllm_ext.lowering.values import Symbol, Value, broadcast_shape, constant

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"
PRODUCER = "trtllm_ext"

# Narrow constants of up to this many bytes are widened here rather than by a Cast in the graph: norm scales and
# biases, which would otherwise be cast in every run where constant folding is off.
WIDEN_BYTES = 64 * 1024


class Emitter:
    """Collects one ONNX graph.

    `scope` is the name of the layer being lowered; nodes and values are named after it.
    """

    def __init__(self, names: Names | None = None) -> None:
        """names: those that are taken, shared by emitters whose segments exchange values."""
        self.scope = ""
        self.names = Names() if names is None else names
        self._graph = OpenGraph()
        self._constants = Constants(self.names)
        self._consumed: set[str] = set()
        # Values under the name of a network tensor.
        self._bound: set[str] = set()
        self._dim_params: dict[Symbol, str] = {}
        # By the name of a node, what the graphs inside it read.
        self._read_inside: dict[str, set[str]] = {}

    # Inputs and outputs

    def input(
        self, name: str, onnx_type: int, shape: tuple[int, ...], symbols: Sequence[Symbol | None]
    ) -> Value:
        """Declare an input of the graph; `symbols` are for the dimensions that `shape` has as -1."""
        unknown = tuple(None if length >= 0 else symbols[axis] for axis, length in enumerate(shape))
        for symbol in unknown:
            if symbol is not None and symbol not in self._dim_params:
                self._dim_params[symbol] = self._new_dim_param(str(symbol))
        value = Value(name, onnx_type, shape, symbols=unknown)
        self._graph.inputs.append(self._described(name, value))
        self.names.reserve(name)
        return value

    def describe(self, value: Value) -> None:
        """Tell ONNX Runtime the shape of a value that it cannot infer."""
        if value.data is None:
            self._graph.descriptions[value.name] = self._described(value.name, value)

    def _described(self, name: str, value: Value) -> onnx.ValueInfoProto:
        dims = [
            self._dim_params.get(length) if isinstance(length, Symbol) else length for length in value.lengths
        ]
        return helper.make_tensor_value_info(name, value.onnx_type, dims)

    def _new_dim_param(self, wanted: str) -> str:
        # To ONNX Runtime equal strings are equal lengths.
        taken, name = set(self._dim_params.values()), wanted
        while name in taken:
            name += "'"
        return name

    def output(self, name: str, value: Value) -> None:
        """Declare `value` an output of the graph under the reserved `name`."""
        if value.name != name or value.data is not None:
            self._graph.nodes.append(
                helper.make_node(
                    "Identity", [self.ref(value)], [name], name=self.names.unique(f"output {name}")
                )
            )
        self._graph.outputs.append(self._described(name, value))

    # Nodes

    def node(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        onnx_type: int,
        shape: tuple[int, ...],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> Value:
        """Add a node with one output of the given type and shape (-1 where unknown)."""
        (value,) = self.node_with_outputs(op_type, inputs, [(onnx_type, shape)], domain=domain, **attributes)
        return value

    def node_with_outputs(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[int, tuple[int, ...]]],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Add a node with any number of outputs, each of a type and shape."""
        names = [self.names.unique(f"{self.scope}/{op_type}") for _ in outputs]
        refs = ["" if value is None else self.ref(value) for value in inputs]
        node = helper.make_node(op_type, refs, names, name=names[0], domain=domain, **attributes)
        self._graph.nodes.append(node)
        self._consumed.update(refs)
        self._graph.producer.update(dict.fromkeys(names, node))
        return tuple(
            Value(name, onnx_type, shape) for name, (onnx_type, shape) in zip(names, outputs, strict=True)
        )

    def map(self, op_type: str, *inputs: Value, to: int | None = None, **attributes: Any) -> Value:
        """Add an elementwise node: type of the first input unless `to` is given, shape broadcast."""
        shape = broadcast_shape(*(value.shape for value in inputs))
        return self.node(op_type, inputs, inputs[0].onnx_type if to is None else to, shape, **attributes)

    def producer(self, value: Value) -> onnx.NodeProto | None:
        """The node that computes `value`, if nothing has consumed it so far."""
        return None if value.name in self._consumed else self._graph.producer.get(value.name)

    def extend(self, value: Value, op_type: str, extra: Value) -> Value:
        """Turn the node that computes `value`, which nothing has read yet, into an `op_type` with one more input."""
        node, before = self._graph.producer[value.name], len(self._graph.nodes)
        ref = self.ref(extra)
        if len(self._graph.nodes) > before:
            # What the node now reads comes from a node behind it.
            self._graph.nodes.append(self._graph.nodes.pop(self._position(node)))
        node.op_type, node.domain = op_type, ""
        node.input.append(ref)
        self._consumed.add(ref)
        self._bound.discard(value.name)
        return value

    def _position(self, node: onnx.NodeProto) -> int:
        return next(at for at in range(len(self._graph.nodes) - 1, -1, -1) if self._graph.nodes[at] is node)

    def rename(self, value: Value, wanted: str, *, reserved: bool) -> Value:
        """`value` under the name of a network tensor where that is possible without a copy.

        reserved: the name has been kept for this tensor (it is an output of the network).
        """
        node = self.producer(value)
        if node is None or value.data is not None or value.name in self._bound:
            return value
        name = wanted if reserved else self.names.unique(wanted)
        node.output[list(node.output).index(value.name)] = name
        self._graph.producer[name] = self._graph.producer.pop(value.name)
        self._bound.add(name)
        renamed = replace(value, name=name)
        if value.name in self._graph.transposed:
            self._graph.transposed[name] = self._graph.transposed.pop(value.name)
        cast_key = self._graph.cast_keys.pop(value.name, None)
        if cast_key is not None:
            self._graph.casts[cast_key] = renamed
        return renamed

    def cast(self, value: Value, onnx_type: int) -> Value:
        """`value` in another type: one Cast node however often it is asked for."""
        if value.onnx_type == onnx_type:
            return value
        if value.data is not None and self._fold_cast(value, onnx_type):
            with np.errstate(over="ignore", invalid="ignore"):
                return self.keep(value.array().astype(numpy_type_of(onnx_type)))
        key = (self.ref(value), onnx_type)
        if key not in self._graph.casts:
            elements = value.elements if onnx_type == INT64 else None
            with self._where_invariant(None if value.data is not None else value.name):
                cast = self._new_cast(value, onnx_type)
                self._graph.casts[key] = replace(cast, elements=elements)
                self._graph.cast_keys[cast.name] = key
        return self._graph.casts[key]

    def _new_cast(self, value: Value, onnx_type: int) -> Value:
        source, order = self._graph.transposed.get(value.name, (None, ()))
        if source is not None and onnx_type == FLOAT:
            # The other way round: where a product reads a cast of a transpose, ONNX Runtime's fusion of the two
            # uses memory that it has freed (seen with 1.31).
            return self.transpose(self.cast(source, onnx_type), order)
        return self.node("Cast", [value], onnx_type, value.shape, to=onnx_type)

    def transpose(self, value: Value, order: tuple[int, ...]) -> Value:
        """A Transpose node: output axis i is input axis order[i]."""
        shape = tuple(value.shape[axis] for axis in order)
        result = self.node("Transpose", [value], value.onnx_type, shape, perm=list(order))
        symbols = tuple(value.symbols[axis] for axis in order) if value.symbols else ()
        result = replace(result, symbols=symbols)
        self._graph.transposed[result.name] = (value, order)
        return result

    def pin(self, value: Value) -> None:
        """Something other than a node reads `value`, so the node that makes it must stay as it is."""
        self._consumed.add(value.name)

    def is_transposed(self, value: Value) -> bool:
        """Whether a Transpose node makes `value`."""
        return value.name in self._graph.transposed

    def widened(self, value: Value) -> Value:
        """Narrow floats as float32, exactly; anything else as it is."""
        return self.cast(value, FLOAT) if value.onnx_type in NARROW_FLOATS else value

    def _fold_cast(self, value: Value, onnx_type: int) -> bool:
        # Only where the result is the same everywhere: out of range conversions to integers are left to the run.
        small = value.data is not None and value.data.nbytes <= WIDEN_BYTES
        kind = numpy_type_of(onnx_type)
        if onnx_type in (FP8, DOUBLE):
            return False  # numpy's conversion to FP8 has no saturation, and plans have no weights of float64
        return small and (kind.kind not in "iu" or numpy_type_of(value.onnx_type).kind in "iub")

    # Constants

    def keep(self, array: np.ndarray[Any, Any]) -> Value:
        """A constant made here; the value, or the weight made of it, keeps the array alive."""
        return constant(np.ascontiguousarray(array).reshape(array.shape))

    def ints(self, numbers: Sequence[int] | int) -> Value:
        """An int64 constant: 1-D from a sequence, 0-d from a number."""
        return self.keep(np.asarray(numbers, np.int64))

    def scalar(self, number: float, onnx_type: int = FLOAT) -> Value:
        """A 0-d constant."""
        return self.keep(np.asarray(number, numpy_type_of(onnx_type)))

    def ref(self, value: Value) -> str:
        """The name under which nodes read `value`; a constant becomes an initializer."""
        if value.data is None:
            return value.name
        if value.data.nbytes <= INLINE_BYTES:
            return self._constants.inlined(value, f"{self.scope}/constant")
        stored = self._constants.stored(value, f"{self.scope}/weights")
        if stored.shape == value.shape:
            return stored.name
        key = (stored.name, value.shape)
        if key not in self._graph.reshaped:
            # The same weights in a second shape: one copy on disk, reshaped in the graph.
            with self._where_invariant(None):
                shaped = self.node(
                    "Reshape", [stored, self.ints(value.shape)], value.onnx_type, value.shape, allowzero=1
                )
                self._graph.reshaped[key] = shaped.name
        return self._graph.reshaped[key]

    def exchangeable(self, value: Value, source: Source) -> Value:
        """A constant whose elements may be others in a built engine, so that nothing here looks at them."""
        return self._constants.external(value, f"{self.scope}/weights", source)

    # Run-time shapes

    def shape_of(self, value: Value) -> Value:
        """The shape of `value`, a 1-D int64 tensor."""
        if value.is_static:
            return self.ints(value.shape)
        return self.node("Shape", [value], INT64, (value.ndim,))

    def dim_of(self, value: Value, axis: int) -> Value:
        """The length of one dimension, a 0-d int64 tensor."""
        if value.shape[axis] >= 0:
            return self.ints(value.shape[axis])
        shape = self.node("Shape", [value], INT64, (1,), start=axis, end=axis + 1)
        return self.node("Squeeze", [shape, self.ints([0])], INT64, ())

    def element(self, vector: Value, index: int) -> Value:
        """One element of a 1-D tensor, 0-d."""
        known = vector.elements[index] if vector.elements is not None else None
        if isinstance(known, int):
            return self.ints(known)
        return self.node("Gather", [vector, self.ints(index)], vector.onnx_type, (), axis=0)

    # Graphs inside nodes

    def open_graph(self, *, repeats: bool) -> None:
        """Begin the graph of an attribute; nodes go into it until `close_graph()`. repeats: a loop's body."""
        self._graph = OpenGraph(self._graph, repeats=repeats)

    def graph_input(self, wanted: str, onnx_type: int, like: Value | None = None) -> Value:
        """Declare an input of the graph begun last: 0-d, or of the shape of `like`."""
        shape, symbols = ((), ()) if like is None else (like.shape, like.symbols)
        value = Value(self.names.unique(wanted), onnx_type, shape, symbols=symbols)
        self._graph.inputs.append(self._described(value.name, value))
        return value

    def close_graph(self, outputs: Sequence[Value]) -> tuple[onnx.GraphProto, set[str]]:
        """End the graph begun last: it, and the names that it reads."""
        for value in outputs:
            if value.data is not None or value.name not in self._graph.producer or self.is_output(value.name):
                value = replace(
                    self.node("Identity", [value], value.onnx_type, value.shape), symbols=value.symbols
                )
            self._graph.outputs.append(self._described(value.name, value))
        graph = self._graph
        if graph.around is None:
            raise ValueError("no graph was begun")
        nodes, read = graph.needed(self._read_inside)
        inside = {info.name for info in graph.inputs}.union(*(node.output for node in nodes))
        made = helper.make_graph(
            nodes, self.scope or "graph", graph.inputs, graph.outputs, value_info=graph.described(read)
        )
        self._graph = graph.around
        return made, read - inside

    @contextmanager
    def _where_invariant(self, name: str | None) -> Iterator[None]:
        """Emit into the outermost graph where what depends on `name` alone can be computed once."""
        current = self._graph
        self._graph = current.home_of(name)
        try:
            yield
        finally:
            self._graph = current

    def is_output(self, name: str) -> bool:
        """Whether an output of the graph has this name."""
        return self._graph.is_output(name)

    def node_with_graphs(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[int, tuple[int, ...]]],
        **graphs: tuple[onnx.GraphProto, set[str]],
    ) -> tuple[Value, ...]:
        """Add a node with attributes that `close_graph()` gave, and at least one output."""
        attributes = {name: graph for name, (graph, _) in graphs.items()}
        values = self.node_with_outputs(op_type, inputs, outputs, **attributes)
        names: set[str] = set().union(*(read for _, read in graphs.values()))
        self._read_inside[self._graph.producer[values[0].name].name] = names
        self._consumed.update(names)
        return values

    # Result

    def segment(self, name: str, *, only_read: bool = False) -> OnnxSegment:
        """The graph collected so far as a model with its weights; only_read: without inputs that nothing reads."""
        graph = self._graph
        nodes, read = graph.needed(self._read_inside)
        inputs = [info for info in graph.inputs if not only_read or info.name in read]
        initializers = [tensor for tensor in self._constants.initializers if tensor.name in read]
        model = helper.make_model(
            helper.make_graph(
                nodes, name, inputs, graph.outputs, initializers, value_info=graph.described(read)
            ),
            producer_name=PRODUCER,
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        )
        return OnnxSegment(
            model,
            tuple(weight for weight in self._constants.weights if weight.name in read),
            tuple(info.name for info in inputs),
            tuple(info.name for info in graph.outputs),
        )
