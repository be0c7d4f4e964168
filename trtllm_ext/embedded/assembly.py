"""What a plan of a network contains: header, models, and views of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.embedded.config import IBuilderConfig
from trtllm_ext.embedded.enums import LayerType, PreviewFeature, ProfilingVerbosity
from trtllm_ext.embedded.layers import ILayer
from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.plan import (
    Header,
    OnnxStep,
    ProfileRecord,
    SegmentRecord,
    SegmentWeight,
    SequenceStep,
    Step,
    TensorRecord,
    WeightRecord,
)
from trtllm_ext.embedded.plan.layout import WEIGHT_ALIGNMENT, align
from trtllm_ext.embedded.plugins.network_plugins import settle_plugins
from trtllm_ext.embedded.profile_check import optimum_shapes, profile_records
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.running.sessions import SharedWeight, open_session
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.tensor_types import element_type_of
from trtllm_ext.errors import BuildError, EngineError
from trtllm_ext.version import __version__

if TYPE_CHECKING:
    from trtllm_ext.lowering.steps import OnnxSegment, Weight

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Parts:
    """Everything that `write_plan()` takes. `weights` are views of the network's memory."""

    header: Header
    segments: Sequence[bytes]
    weights: Sequence[Bytes]


def assemble(network: INetworkDefinition, config: IBuilderConfig) -> Parts:
    """Lower a network and describe the engine that it makes.

    Raises BuildError with the reason if that cannot be done.
    """
    import trtllm_ext.embedded
    from trtllm_ext.lowering.lower import lower
    from trtllm_ext.lowering.steps import OnnxSegment, PluginStep

    errors = network._errors()
    if errors:
        raise BuildError("\n".join(errors))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _check_outputs(network, outputs)
    program = ShapeProgram.of(network, [tensor.name for tensor in outputs if tensor])
    records_of_tensors = tuple(
        _tensor_record(
            tensor, is_input=number < len(inputs), is_shape_input=tensor.name in program.shape_inputs
        )
        for number, tensor in enumerate([*inputs, *outputs])
        if tensor is not None
    )
    profiles = _profiles(config, records_of_tensors, program)
    lowered = lower(network, trtllm_ext.embedded, _min_shapes(profiles))

    plugins, plugin_steps = settle_plugins(
        network,
        [step for step in lowered.steps if isinstance(step, PluginStep)],
        records_of_tensors,
        profiles,
        config.get_preview_feature(PreviewFeature.ALIASED_PLUGIN_IO_10_03),
    )

    blocks = _Blocks()
    segments = []
    steps: list[Step] = []
    records: list[SegmentRecord] = []
    for step in lowered.steps:
        if not isinstance(step, OnnxSegment):
            steps.append(next(plugin_steps))
            continue
        steps.append(OnnxStep(len(records), step.inputs, step.outputs))
        weights, model = blocks.place(step)
        offset = records[-1].offset + records[-1].nbytes if records else 0
        records.append(SegmentRecord(offset=offset, nbytes=len(model), weights=weights))
        segments.append(model)
        _try_segment(model, step)

    header = Header(
        generator=f"trtllm_ext {__version__}",
        name=network.name,
        is_strongly_typed=network._graph.strongly_typed,
        verbosity=config.profiling_verbosity.name,
        tensors=records_of_tensors,
        profiles=profiles,
        shape_program=program.to_json(),
        num_layers=network.num_layers,
        layers=_layer_descriptions(network, config.profiling_verbosity),
        steps=SequenceStep(tuple(steps)),
        segments=tuple(records),
        weights=tuple(blocks.records),
        plugins=plugins,
    )
    return Parts(header, segments, blocks.data)


def _check_outputs(network: INetworkDefinition, outputs: Sequence[ITensor | None]) -> None:
    for tensor in outputs:
        if tensor is not None and tensor.is_network_input:
            raise BuildError(
                f"{tensor.name!r} is an input and an output of the network; put an identity layer between the two."
            )
    if network._graph.shape_outputs:
        name = network._graph.shape_outputs[0].name
        raise BuildError(
            f"{name!r} is marked by mark_output_for_shapes(), which the embedded engine lacks; use mark_output()."
        )


def _profiles(
    config: IBuilderConfig, tensors: Sequence[TensorRecord], program: ShapeProgram
) -> tuple[ProfileRecord, ...]:
    profiles = profile_records(config._profiles, [tensor for tensor in tensors if tensor.is_input])
    for index, profile in enumerate(profiles):
        try:
            optimum_shapes(program.run, tensors, profile)
        except ValueError as error:
            raise BuildError(
                f"shapes do not fit each other at the optimum of profile {index}: {error}"
            ) from None
    return profiles


def _min_shapes(profiles: Sequence[ProfileRecord]) -> dict[str, tuple[int, ...]]:
    return {
        name: tuple(map(min, zip(*(profile.shapes[name][0] for profile in profiles), strict=True)))
        for name in profiles[0].shapes
    }


def _tensor_record(tensor: ITensor, is_input: bool, is_shape_input: bool) -> TensorRecord:
    return TensorRecord(
        name=tensor.name,
        is_input=is_input,
        dtype=element_type_of(tensor.dtype, tensor.name).name,
        shape=tuple(tensor.shape),
        is_shape_input=is_input and is_shape_input,
    )


class _Blocks:
    """Blocks of weights in the order in which they are written; the same memory is written once."""

    def __init__(self) -> None:
        self.records: list[WeightRecord] = []
        self.data: list[Bytes] = []
        self._numbers: dict[tuple[int, int], int] = {}

    def place(self, step: "OnnxSegment") -> tuple[tuple[SegmentWeight, ...], bytes]:
        """Give every weight of a segment its block; returns the table and the serialized model."""
        folded = _folded_names(step)
        table = []
        for weight in step.weights:
            number = self._number(weight)
            table.append(
                SegmentWeight(
                    name=weight.name,
                    block=number,
                    onnx_type=weight.onnx_type,
                    shape=weight.shape,
                    is_folded=weight.name in folded,
                )
            )
        blocks = {weight.name: self.records[weight.block] for weight in table}
        for initializer in step.model.graph.initializer:
            block = blocks.get(initializer.name)
            if block is not None:
                initializer.external_data.add(key="offset", value=str(block.offset))
                initializer.external_data.add(key="length", value=str(block.nbytes))
        return tuple(table), step.model.SerializeToString(deterministic=True)

    def _number(self, weight: "Weight") -> int:
        key = (weight.data.__array_interface__["data"][0], weight.data.nbytes)
        if key not in self._numbers:
            last = self.records[-1] if self.records else WeightRecord(offset=0, nbytes=0)
            offset = align(last.offset + last.nbytes, WEIGHT_ALIGNMENT)
            self._numbers[key] = len(self.records)
            self.records.append(WeightRecord(offset=offset, nbytes=weight.data.nbytes))
            self.data.append(weight.data)
        return self._numbers[key]


def _folded_names(step: "OnnxSegment") -> set[str]:
    """Weights that some node reads together with nothing but constants."""
    graph = step.model.graph
    weights = {weight.name for weight in step.weights}
    constants = {initializer.name for initializer in graph.initializer}
    folded: set[str] = set()
    for node in graph.node:
        given = [name for name in node.input if name]
        if constants.issuperset(given):
            constants.update(node.output)
            folded.update(weights.intersection(given))
    return folded


def _try_segment(model: bytes, step: "OnnxSegment") -> None:
    """Open the model once, so that what ONNX Runtime cannot run is refused now and not when it is loaded."""
    shared = [
        SharedWeight(weight.name, weight.onnx_type, weight.shape, weight.data) for weight in step.weights
    ]
    try:
        open_session(model, shared, "mapped", threads=1)
    except EngineError as error:
        raise BuildError(f"the network cannot be run on this machine: {error}") from error


def _layer_descriptions(
    network: INetworkDefinition, verbosity: ProfilingVerbosity
) -> tuple[Mapping[str, Any], ...]:
    if verbosity == ProfilingVerbosity.NONE:
        return ()
    layers = network._ordered_layers()
    if verbosity == ProfilingVerbosity.LAYER_NAMES_ONLY:
        return tuple({"Name": layer.name} for layer in layers)
    return tuple(
        {
            "Name": layer.name,
            "LayerType": _kind(layer).name,
            "Inputs": [_tensor_description(layer.get_input(index)) for index in range(layer.num_inputs)],
            "Outputs": [_tensor_description(layer.get_output(index)) for index in range(layer.num_outputs)],
            "Metadata": layer.metadata,
        }
        for layer in layers
    )


def _kind(layer: ILayer) -> LayerType:
    # Not `layer.type`: an IActivationLayer hides the layer's type behind the activation's.
    return layer._node.kind


def _tensor_description(tensor: ITensor | None) -> Mapping[str, Any] | None:
    if tensor is None:
        return None
    return {"Name": tensor.name, "Dimensions": list(tensor.shape), "Datatype": tensor.dtype.name}
