"""Networks with layers that ONNX Runtime does not run: the ONNX between them is cut into segments.

A layer's level is the number of cuts that must come before it. All ONNX of one level is one segment, so there are no
more segments than the longest chain of cuts asks for. Cuts of one level keep their order, which is the same for
networks that differ in their weights only, so that ranks come to their collectives in one order. What is computed from
constants alone goes to the segments that read it, where it can be folded, and never crosses a cut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trtllm_ext.lowering.element_types import onnx_type_of_port
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.layer_view import PLUGINS, LayerView
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.names import Names
from trtllm_ext.lowering.network_view import NetworkView
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.steps import CollectiveStep, Lowered, PluginStep, Step
from trtllm_ext.lowering.values import Symbol, Value

_COLLECTIVE = "DIST_COLLECTIVE"
CUTS = frozenset({*PLUGINS, _COLLECTIVE})

# Cheap to do in each segment, and mostly folded.
_OF_CONSTANTS = frozenset(
    {
        "CAST",
        "CONCATENATION",
        "DEQUANTIZE",
        "ELEMENTWISE",
        "GATHER",
        "IDENTITY",
        "QUANTIZE",
        "SHAPE",
        "SHUFFLE",
        "SLICE",
        "SQUEEZE",
        "UNARY",
        "UNSQUEEZE",
    }
)


@dataclass
class _Part:
    """One level: ONNX layers, then the cuts that wait for nothing later, each in an order of execution."""

    layers: list[LayerView] = field(default_factory=list)
    cuts: list[LayerView] = field(default_factory=list)


def is_cut(view: NetworkView) -> bool:
    """Whether a network has layers that ONNX Runtime does not run."""
    return any(layer.kind in CUTS for layer in view.layers)


def lower_parts(view: NetworkView, name: str, inputs: Mapping[int, Value]) -> Lowered:
    """Lower a network with cuts. inputs: the values of the network's inputs, by the id of the tensor."""
    return _Cutting(view, name, inputs).lower()


def _inside(layer: Layer) -> Value:
    raise layer.refusal(
        "plugins cannot be inside a loop or a branch of a conditional, which run as one; move the plugin out of it"
    )


for _kind in PLUGINS:
    lowers(_kind)(_inside)


@lowers(_COLLECTIVE)
def _collective_inside(layer: Layer) -> Value:
    raise layer.refusal(
        "collectives cannot be inside a loop or a branch of a conditional, where ranks could part ways and wait "
        "for each other forever; move the collective out of it"
    )


class _Cutting:
    def __init__(self, view: NetworkView, name: str, inputs: Mapping[int, Value]) -> None:
        self._view = view
        self._name = name
        # By the id of a tensor: what is known of it, and what the steps call it if it is there between them.
        self._values = dict(inputs)
        self._step_names = {key: value.name for key, value in inputs.items()}
        self._names = Names([*self._step_names.values(), *(tensor.name for tensor in view.outputs)])
        self._outputs = {id(tensor): tensor for tensor in view.outputs}

    def lower(self) -> Lowered:
        steps: list[Step] = []
        parts = _parts(self._view)
        last_use = _last_uses(self._view, parts)
        for number, part in enumerate(parts):
            segment = self._segment(number, part, last_use)
            steps += [] if segment is None else [segment]
            steps += [
                self._collective(layer) if layer.kind == _COLLECTIVE else self._plugin(layer)
                for layer in part.cuts
            ]
        return Lowered(tuple(steps))

    def _segment(self, number: int, part: _Part, last_use: Mapping[int, int]) -> Step | None:
        emitter = Emitter(self._names)
        # What a dequantize layer has left for a product belongs to another graph.
        self._view.dequantized.clear()
        tensors = [tensor for layer in part.layers for tensor in layer.outputs]
        values = _Reading(emitter, self._values, {id(tensor) for tensor in tensors})
        kept = {id(tensor) for layer in part.cuts for tensor in layer.inputs} | self._outputs.keys()
        kept |= {id(tensor) for tensor in tensors if last_use[id(tensor)] > number}
        for layer in part.layers:
            lower_layers(emitter, self._view, [layer], values)
            for tensor in layer.outputs:
                if id(tensor) in kept:
                    emitter.pin(values[id(tensor)])
        written = [
            tensor for tensor in tensors if id(tensor) in kept and self._write(emitter, tensor, values)
        ]
        for tensor in tensors:
            self._values.setdefault(id(tensor), values[id(tensor)])
        return emitter.segment(f"{self._name} {number}", only_read=True) if written else None

    def _write(self, emitter: Emitter, tensor: Any, values: "_Reading") -> bool:
        """Make a tensor an output of the segment, under its name between the steps, unless it has one already."""
        key, value = id(tensor), values[id(tensor)]
        if key in self._step_names:
            return False
        if key in self._outputs:
            onnx_type_of_port(tensor.dtype, f"network output {tensor.name!r}")
            name = tensor.name
        else:
            name = value.name if value.data is None else self._names.unique(tensor.name)
        self._step_names[key] = name
        if value.data is None:
            self._values[key] = replace(value, name=name)
        if name in values.declared or emitter.is_output(name):
            return False
        emitter.output(name, value)
        return True

    def _plugin(self, layer: LayerView) -> PluginStep:
        names = tuple(self._made_by_cut(layer, tensor) for tensor in layer.outputs)
        return PluginStep(layer.api, tuple(self._step_names[id(tensor)] for tensor in layer.inputs), names)

    def _collective(self, layer: LayerView) -> CollectiveStep:
        [read], [made] = layer.inputs, layer.outputs
        name = self._made_by_cut(layer, made)
        value, source = self._values[id(made)], self._values[id(read)]
        theirs = source.symbols or (None,) * value.ndim
        # No length but the first may be another than before, and that one is 0 only if it was.
        is_same = layer.api.dist_collective_op.name == "ALL_REDUCE"
        symbols = tuple(
            old if old is not None and (axis or is_same) else new
            for axis, (old, new) in enumerate(zip(theirs, value.symbols, strict=True))
        )
        if theirs[0] in self._view.positive and symbols[0] is not None:
            self._view.positive.add(symbols[0])
        self._values[id(made)] = replace(value, symbols=symbols)
        return CollectiveStep(layer.api, self._step_names[id(read)], name)

    def _made_by_cut(self, layer: LayerView, tensor: Any) -> str:
        """The name between the steps of what a cut makes, which becomes known."""
        name: str = tensor.name if id(tensor) in self._outputs else self._names.unique(tensor.name)
        shape = tuple(tensor.shape)
        symbols = tuple(None if length >= 0 else Symbol(name, axis) for axis, length in enumerate(shape))
        onnx_type = onnx_type_of_port(tensor.dtype, f"{layer}'s output {tensor.name!r}")
        self._values[id(tensor)] = Value(name, onnx_type, shape, symbols=symbols)
        self._step_names[id(tensor)] = name
        return name


class _Reading(dict[int, Value]):
    """Values in one segment: those of other steps become inputs of it when they are first read."""

    def __init__(self, emitter: Emitter, others: Mapping[int, Value], made: set[int]) -> None:
        super().__init__()
        self.declared: dict[str, Value] = {}
        self._emitter = emitter
        self._others = others
        self._made = made

    def __missing__(self, key: int) -> Value:
        value = self._others[key]
        if value.data is None:
            value = self._declare(value)
        self[key] = value
        return value

    def _declare(self, value: Value) -> Value:
        if value.name not in self.declared:
            symbols = value.symbols or (None,) * value.ndim
            there = self._emitter.input(value.name, value.onnx_type, value.shape, symbols)
            self.declared[value.name] = replace(there, elements=value.elements)
        return self.declared[value.name]


def _parts(view: NetworkView) -> list[_Part]:
    levels = _levels(view)
    parts = [_Part() for _ in range(max((max(found) for found in levels.values() if found), default=0) + 1)]
    for layer in view.layers:
        for level in levels[id(layer)]:
            part = parts[level]
            (part.cuts if layer.kind in CUTS else part.layers).append(layer)
    return parts


def _levels(view: NetworkView) -> dict[int, set[int]]:
    """The levels of each layer, by its id: several only for what is computed from constants."""
    levels: dict[int, set[int]] = {}
    constant: set[int] = set()
    producers = {id(tensor): layer for layer in view.layers for tensor in layer.outputs}
    for layer in view.layers:
        sources = [producers.get(id(tensor)) for tensor in layer.inputs if tensor is not None]
        if _is_constant(layer, sources, constant):
            constant.add(id(layer))
            levels[id(layer)] = set()
            continue
        own = layer.kind in CUTS
        levels[id(layer)] = {
            max(
                (
                    max(levels[id(source)], default=0) + (source.kind in CUTS and not own)
                    for source in sources
                    if source is not None
                ),
                default=0,
            )
        }
    for layer in reversed(view.layers):
        for tensor in layer.inputs:
            source = producers.get(id(tensor))
            if source is not None and id(source) in constant:
                levels[id(source)] |= levels[id(layer)]
    for tensor in view.outputs:
        source = producers.get(id(tensor))
        if source is not None and not levels[id(source)]:
            _place(source, producers, levels)
    return levels


def _is_constant(layer: LayerView, sources: list[LayerView | None], constant: set[int]) -> bool:
    if layer.kind == "CONSTANT":
        return True
    return layer.kind in _OF_CONSTANTS and all(
        source is not None and id(source) in constant for source in sources
    )


def _place(layer: LayerView, producers: Mapping[int, LayerView], levels: dict[int, set[int]]) -> None:
    """Put an output that is computed from constants, and all it needs, into the first segment."""
    stack = [layer]
    while stack:
        one = stack.pop()
        if 0 not in levels[id(one)]:
            levels[id(one)].add(0)
            stack += [producers[id(tensor)] for tensor in one.inputs if tensor is not None]


def _last_uses(view: NetworkView, parts: list[_Part]) -> dict[int, int]:
    """The last part in which a tensor is read by an ONNX layer, by its id; -1 if none reads it."""
    last = {id(tensor): -1 for layer in view.layers for tensor in layer.outputs}
    for number, part in enumerate(parts):
        made = {id(tensor) for layer in part.layers for tensor in layer.outputs}
        for layer in part.layers:
            for tensor in layer.inputs:
                if tensor is not None and id(tensor) in last and id(tensor) not in made:
                    last[id(tensor)] = max(last[id(tensor)], number)
        for layer in part.cuts:
            for tensor in layer.inputs:
                if id(tensor) in last and id(tensor) not in made:
                    last[id(tensor)] = max(last[id(tensor)], number)
    return last
