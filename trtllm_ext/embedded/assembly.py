"""What a plan of a network contains: header, models, and views of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trtllm_ext.embedded.config import IBuilderConfig
from trtllm_ext.embedded.enums import BuilderFlag, LayerType, PreviewFeature, ProfilingVerbosity, TensorFormat
from trtllm_ext.embedded.fusion import fusion_level_of
from trtllm_ext.embedded.layers import IDistCollectiveLayer, ILayer
from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.network_collectives import settle_collectives
from trtllm_ext.embedded.plan import (
    Header,
    ProfileRecord,
    SequenceStep,
    Step,
    TensorRecord,
)
from trtllm_ext.embedded.plan.blocks import Bytes
from trtllm_ext.embedded.plugins.expansions import expansions_of
from trtllm_ext.embedded.plugins.network_plugins import settle_plugins
from trtllm_ext.embedded.profile_check import optimum_shapes, profile_records
from trtllm_ext.embedded.progress import Progress
from trtllm_ext.embedded.refittable import REFIT_FLAGS
from trtllm_ext.embedded.rules.program import ShapeProgram
from trtllm_ext.embedded.segment_table import SegmentTable
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.tensor_types import element_type_of
from trtllm_ext.errors import BuildError
from trtllm_ext.version import __version__

# Shapes inferred, network lowered, segments prepared.
ASSEMBLY_STEPS = 3


@dataclass(frozen=True)
class Parts:
    """Everything that `write_plan()` takes, and entries for a timing cache.

    weights: views of the network's memory. timings: milliseconds to prepare a segment, by digest.
    """

    header: Header
    segments: Sequence[bytes]
    weights: Sequence[Bytes]
    timings: Mapping[bytes, float]


def assemble(network: INetworkDefinition, config: IBuilderConfig, progress: Progress) -> Parts:
    """Lower a network and describe the engine that it makes, which is ASSEMBLY_STEPS of the open phase.

    Raises BuildError with the reason if that cannot be done.
    """
    import trtllm_ext.embedded
    from trtllm_ext.lowering.lower import lower
    from trtllm_ext.lowering.steps import CollectiveStep, OnnxSegment, PluginStep

    errors = network._errors()
    if errors:
        raise BuildError("\n".join(errors))
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    _check_outputs(network, outputs)
    _check_formats([*inputs, *outputs])
    program = ShapeProgram.of(network, [tensor.name for tensor in outputs if tensor])
    records_of_tensors = tuple(
        _tensor_record(
            tensor,
            is_input=number < len(inputs),
            is_shape_input=tensor.name in program.shape_inputs,
            is_shape_output=tensor in network._graph.shape_outputs,
        )
        for number, tensor in enumerate([*inputs, *outputs])
        if tensor is not None
    )
    profiles = _profiles(config, records_of_tensors, program)
    progress.step()
    refittable = {
        (id(weights.layer.view), weights.role.name): weights
        for weights in network._refittable_weights(config.flags)
    }
    debug = [
        tensor
        for tensor in network._graph.debug_tensors
        if not tensor.is_network_input and not tensor.is_network_output
    ]
    fusion_level = fusion_level_of(config.builder_optimization_level)
    lowered = lower(
        network,
        trtllm_ext.embedded,
        _min_shapes(profiles),
        refittable.keys(),
        debug,
        fuses_bias=fusion_level != "basic",
        expansions=expansions_of(network),
    )

    progress.step()
    plugins, plugin_steps = settle_plugins(
        network,
        [step for step in lowered.steps if isinstance(step, PluginStep)],
        records_of_tensors,
        profiles,
        config.get_preview_feature(PreviewFeature.ALIASED_PLUGIN_IO_10_03),
    )

    collective_steps = settle_collectives(
        network,
        [step for step in lowered.steps if isinstance(step, CollectiveStep)],
        records_of_tensors,
        profiles,
    )

    table = SegmentTable(refittable, config.get_flag(BuilderFlag.STRIP_PLAN), fusion_level)
    steps: list[Step] = []
    with progress.phase("Preparing segments", len(lowered.steps)):
        for step in lowered.steps:
            if isinstance(step, OnnxSegment):
                steps.append(table.add(step))
            elif isinstance(step, CollectiveStep):
                steps.append(next(collective_steps))
            else:
                steps.append(next(plugin_steps))
            progress.step()
    progress.step()

    header = Header(
        generator=f"trtllm_ext {__version__}",
        name=network.name,
        is_strongly_typed=network._graph.strongly_typed,
        verbosity=config.profiling_verbosity.name,
        fusion_level=fusion_level,
        tensors=records_of_tensors,
        profiles=profiles,
        shape_program=program.to_json(),
        num_layers=network.num_layers,
        layers=_layer_descriptions(network, config.profiling_verbosity),
        steps=SequenceStep(tuple(steps)),
        segments=tuple(table.records),
        weights=tuple(table.blocks.records),
        refit=tuple(table.refit),
        debug=tuple(_tensor_record(tensor) for tensor in network._graph.debug_tensors),
        is_refittable=any(config.get_flag(flag) for flag in REFIT_FLAGS),
        is_streamable=config.get_flag(BuilderFlag.WEIGHT_STREAMING),
        plugins=plugins,
    )
    return Parts(header, table.models, table.blocks.data, table.timings)


def _check_outputs(network: INetworkDefinition, outputs: Sequence[ITensor | None]) -> None:
    for tensor in outputs:
        if tensor is not None and tensor.is_network_input:
            raise BuildError(
                f"{tensor.name!r} is an input and an output of the network; put an identity layer between the two."
            )


def _check_formats(tensors: Sequence[ITensor | None]) -> None:
    for tensor in tensors:
        if tensor is None or tensor.allowed_formats >> int(TensorFormat.LINEAR) & 1:
            continue
        allowed = [each.name for each in TensorFormat if tensor.allowed_formats >> int(each) & 1]
        raise BuildError(
            f"{tensor.name!r} allows the formats {', '.join(allowed) or 'none'}, but the embedded engine has LINEAR "
            "only. Allow LINEAR, and put a shuffle layer with a transposition into the network for data laid out "
            "otherwise."
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


def _tensor_record(
    tensor: ITensor, is_input: bool = False, is_shape_input: bool = False, is_shape_output: bool = False
) -> TensorRecord:
    return TensorRecord(
        name=tensor.name,
        is_input=is_input,
        dtype=element_type_of(tensor.dtype, tensor.name).name,
        shape=tuple(tensor.shape),
        is_shape_input=is_input and is_shape_input,
        is_shape_output=not is_input and is_shape_output,
    )


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
            **_collective_description(layer),
        }
        for layer in layers
    )


def _collective_description(layer: ILayer) -> Mapping[str, Any]:
    if not isinstance(layer, IDistCollectiveLayer):
        return {}
    return {
        "CollectiveOperation": layer.dist_collective_op.name,
        "ReduceOperation": layer.reduce_op.name,
        "Group": list(layer.groups),
    }


def _kind(layer: ILayer) -> LayerType:
    # Not `layer.type`: an IActivationLayer hides the layer's type behind the activation's.
    return layer._node.kind


def _tensor_description(tensor: ITensor | None) -> Mapping[str, Any] | None:
    if tensor is None:
        return None
    return {"Name": tensor.name, "Dimensions": list(tensor.shape), "Datatype": tensor.dtype.name}
