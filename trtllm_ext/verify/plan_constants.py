"""What the embedded engine's plans hold: constants, where they are read, and where two plans differ."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from trtllm_ext.embedded.plan import read_plan

Array = np.ndarray[Any, Any]

_Name = tuple[int, str]


class Constants:
    """The floating constants of a plan, by segment and name, and which of them each node reads.

    reads: by segment, the node's first output, and which of its inputs it is.
    """

    def __init__(self, buffer: Any) -> None:
        plan = read_plan(memoryview(buffer))
        self.values: dict[_Name, Array] = {}
        self.reads: dict[tuple[int, str, int], _Name] = {}
        for index in range(len(plan.header.segments)):
            graph = graph_of(plan, index)
            self.values |= dict(_each_constant(plan, index, graph))
            for node in graph.node:
                for position, name in enumerate(node.input):
                    if (index, name) in self.values:
                        self.reads[index, node.output[0], position] = index, name

    def in_terms_of(self, other: Constants) -> dict[_Name, Array] | None:
        """Another plan's values under this one's names; None where it does not read constants of the same shapes."""
        if self.reads.keys() != other.reads.keys():
            return None
        names = {name: name for name in self.values} | {
            name: other.reads[place] for place, name in self.reads.items()
        }
        found = {name: other.values[there] for name, there in names.items() if there in other.values}
        if {name: value.shape for name, value in found.items()} != {
            name: value.shape for name, value in self.values.items()
        }:
            return None
        return found


def graph_of(plan: Any, index: int) -> Any:
    """A segment's ONNX graph."""
    import onnx

    return onnx.load_model_from_string(bytes(plan.segment(index))).graph


def _each_constant(plan: Any, index: int, graph: Any) -> Iterator[tuple[_Name, Array]]:
    """Those of one segment: its weights, and what stands in its graph."""
    import onnx
    from onnx import numpy_helper

    for weight in plan.header.segments[index].weights:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(weight.onnx_type)
        if weight.block is not None and np.dtype(dtype).kind not in "iub":
            yield (index, weight.name), plan.weight(weight.block).view(dtype).reshape(weight.shape)
    inside = [each for each in graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL]
    inside += [_value(node) for node in graph.node if node.op_type == "Constant"]
    for tensor in inside:
        if tensor is None:
            continue
        if np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).kind not in "iub":
            yield (index, tensor.name), numpy_helper.to_array(tensor)


def _value(node: Any) -> Any:
    found = next((each.t for each in node.attribute if each.name == "value"), None)
    if found is not None:
        found.name = node.output[0]
    return found


def first_difference(one: Any, other: Any) -> str:
    """The layer of the first plan's first node that the second has not, by what it computes and what it reads; or "".

    Names do not count: they tell of lines of code, which move without meaning anything.
    """
    theirs = list(_steps(other))
    for index, (name, step) in enumerate(_steps(one)):
        if index >= len(theirs) or theirs[index][1] != step:
            return name
    return ""


def _steps(buffer: Any) -> Iterator[tuple[str, Any]]:
    """Each node's layer, and what it does: operator, attributes, what tells its constants apart."""
    plan, constants = read_plan(memoryview(buffer)), Constants(buffer)
    for index in range(len(plan.header.segments)):
        for node in graph_of(plan, index).node:
            read = [constants.values.get((index, name)) for name in node.input]
            held = [b"" if value is None else hashlib.sha256(value.tobytes()).digest() for value in read]
            attributes = sorted(each.SerializeToString() for each in node.attribute)
            name = re.sub(r"(_output_\d+|/[A-Z][A-Za-z]+(_\d+)?)$", "", node.output[0])
            yield name, (node.op_type, attributes, held)
