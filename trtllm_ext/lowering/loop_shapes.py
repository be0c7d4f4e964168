"""The shape that a value inside a loop would have, for loops that turn out to have no iteration."""

from collections.abc import Mapping
from typing import Any

from trtllm_ext.lowering.element_types import BF16, BOOL, FLOAT, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.lower_layers import lower_layers
from trtllm_ext.lowering.regions import LoopView
from trtllm_ext.lowering.values import Value


def shape_inside(
    layer: Layer, view: LoopView, tensor: Any, scan: Value, values: Mapping[int, Value]
) -> Value:
    """The shape of `tensor`, 1-D int64: that of its collected values, or of what an iteration over zeros would give.

    scan: (iterations, *shape of tensor). values: what is there before the loop, recurrences with initial values.
    The iteration over zeros runs only where there was no other.
    """
    emitter, rank = layer.emitter, scan.ndim - 1
    emitter.open_graph(repeats=False)
    inside = dict(values)
    for one in view.loop.iterators:
        inside[id(one.outputs[0])] = _zeros(emitter, inside[id(one.inputs[0])], int(one.api.axis))
    lower_layers(emitter, layer.network, view.needed_by(tensor), inside)
    imagined = emitter.close_graph([emitter.shape_of(inside[id(tensor)])])
    emitter.open_graph(repeats=False)
    seen = emitter.close_graph([emitter.node("Shape", [scan], INT64, (rank,), start=1)])
    empty = emitter.map("Equal", emitter.dim_of(scan, 0), emitter.ints(0), to=BOOL)
    (shape,) = emitter.node_with_graphs(
        "If", [empty], [(INT64, (rank,))], then_branch=imagined, else_branch=seen
    )
    return shape


def _zeros(emitter: Emitter, data: Value, axis: int) -> Value:
    """Zeros in the shape of a slice."""
    parts = [
        emitter.node("Shape", [data], INT64, (end - start,), start=start, end=end)
        for start, end in ((0, axis), (axis + 1, data.ndim))
    ]
    wanted = emitter.node("Concat", parts, INT64, (data.ndim - 1,), axis=0)
    shape = data.shape[:axis] + data.shape[axis + 1 :]
    # Expand has no kernel for bfloat16.
    onnx_type = FLOAT if data.onnx_type == BF16 else data.onnx_type
    zeros = emitter.node("Expand", [emitter.scalar(0, onnx_type), wanted], onnx_type, shape)
    return emitter.cast(zeros, data.onnx_type)
