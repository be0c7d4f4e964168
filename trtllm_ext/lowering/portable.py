"""A lowered network as one ONNX model for other tools: of the lowest opset that has its operators, weights and all."""

from collections.abc import Iterator, Mapping

import onnx
from onnx import defs, helper, shape_inference

from trtllm_ext.lowering.emitter import OPSET
from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.steps import CollectiveStep, Lowered, OnnxSegment, PluginStep

LOWEST_OPSET = 13
ALIGNMENT = 4096

# The version since which an operator means the same for what is emitted here, where later ones add types, or inputs
# and attributes that are not used. What a type asks for beyond that, type inference tells.
_SAME_SINCE = {
    "Cast": 13,
    "ConstantOfShape": 9,
    "Equal": 13,
    "Identity": 13,
    "If": 13,
    "Loop": 13,
    "ReduceMax": 18,
    "ReduceMin": 18,
    "Reshape": 14,
    "ScatterElements": 13,
    "ScatterND": 13,
    "Shape": 15,
    "Size": 13,
    "Squeeze": 13,
    "Transpose": 13,
    "Unsqueeze": 13,
}


def only_segment(lowered: Lowered) -> OnnxSegment:
    """The one segment of a network that is all ONNX. Raises LoweringError that names the layers which are not."""
    reasons = [_reason(step) for step in lowered.steps if not isinstance(step, OnnxSegment)]
    if reasons:
        raise LoweringError("the network is not all ONNX: " + "; ".join(reasons) + ".")
    segments = [step for step in lowered.steps if isinstance(step, OnnxSegment)]
    return segments[0]


def _reason(step: object) -> str:
    if isinstance(step, PluginStep):
        return (
            f"layer {step.layer.name!r} is a plugin, whose meaning nobody has recorded as layers; record it with "
            "network.record_plugin(layer, PluginRecord(name=..., expansion=...))"
        )
    if isinstance(step, CollectiveStep):
        return f"layer {step.layer.name!r} is a collective of several ranks, which ONNX does not have"
    return f"a step of type {type(step).__name__}"


def portable_model(
    segment: OnnxSegment, *, data_file: str | None = None, metadata: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """A model that stands alone.

    data_file: the name of the file beside it with the weights, as `data_blocks` gives them; None puts them inside.
    metadata: becomes the model's metadata_props. Raises LoweringError for operators that are not ONNX's own.
    """
    model = onnx.ModelProto()
    model.CopyFrom(segment.model)
    foreign = sorted({node.op_type for node in _nodes(model.graph) if node.domain})
    if foreign:
        raise LoweringError(f"operators {', '.join(foreign)} are not ONNX's own; lower with standard=True.")
    _settle_opset(model)
    helper.set_model_props(model, dict(metadata or {}))
    weights = {weight.name: weight.data for weight in segment.weights}
    offsets = {name: offset for name, offset, _ in data_blocks(segment)}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        tensor.ClearField("external_data")
        if data_file is None:
            tensor.data_location = onnx.TensorProto.DEFAULT
            tensor.raw_data = weights[tensor.name].tobytes()
            continue
        for key, value in (
            ("location", data_file),
            ("offset", offsets[tensor.name]),
            ("length", weights[tensor.name].nbytes),
        ):
            tensor.external_data.add(key=key, value=str(value))
    return model


def data_blocks(segment: OnnxSegment) -> Iterator[tuple[str, int, memoryview]]:
    """The weights in the order of a data file: name, offset in bytes, and the bytes."""
    offset = 0
    for weight in segment.weights:
        yield weight.name, offset, weight.data.data
        offset += -(-weight.data.nbytes // ALIGNMENT) * ALIGNMENT


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _settle_opset(model: onnx.ModelProto) -> None:
    """Make the opset the lowest in which the operators mean the same and take the types that they are given."""
    lowest = max((_since(node) for node in _nodes(model.graph)), default=LOWEST_OPSET)
    for version in range(max(lowest, LOWEST_OPSET), OPSET):
        _set_opset(model, version)
        try:
            shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
        except shape_inference.InferenceError:
            continue
        return
    _set_opset(model, OPSET)


def _since(node: onnx.NodeProto) -> int:
    newest = int(defs.get_schema(node.op_type, OPSET).since_version)
    if node.op_type in ("ScatterElements", "ScatterND") and any(
        a.name == "reduction" for a in node.attribute
    ):
        return newest
    return _SAME_SINCE.get(node.op_type, newest)


def _set_opset(model: onnx.ModelProto, version: int) -> None:
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", version))
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
