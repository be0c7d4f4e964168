"""Adding the layer of an operation to the network being defined, whichever TensorRT it is."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import GraphError
from trtllm_ext.graph import Tensor
from trtllm_ext.graph.dtypes import to_trt_dtype
from trtllm_ext.graph.layer import add_layer, fail, outputs
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.plugin_record import PluginRecord
from trtllm_ext.plugin.c_interface import Type
from trtllm_ext.plugin.creators import creator_of
from trtllm_ext.plugin.operation import Operand, Operation
from trtllm_ext.plugin.packing import packed
from trtllm_ext.runtime.dtypes import readable
from trtllm_ext.suggest import nearest


def add_operation(
    operation: Operation, settings: Mapping[str, Any], inputs: Mapping[str, Tensor | None]
) -> tuple[Tensor, ...]:
    """The outputs of a new plugin layer, recorded with its expansion.

    settings: fields but for `type` and those that say which inputs there are. inputs: by name; None, or left out, for
    those that are not there.
    Raises GraphError for inputs that are missing or unknown, for types that no kernel takes or that differ, for wrong
    settings, and when TensorRT refuses the layer; BackendError when there is no plugin.
    """
    _check_names(operation, inputs)
    there = {name: tensor for name, tensor in inputs.items() if tensor is not None}
    presence = {each.when: int(each.name in there) for each in operation.inputs if each.when is not None}
    kind = _type_of(operation, there)
    fields = operation.complete({**settings, **presence, "type": kind})
    tensors = [there[each.name] for each in operation.inputs_of(fields)]
    plugin = _plugin(operation, fields)
    layer = _layer(plugin, tensors)
    record = PluginRecord(
        name=operation.plugin,
        version=operation.version,
        namespace=operation.namespace,
        fields=fields,
        expansion=partial(_expanded, operation, fields),
    )
    default_net().record_plugin(layer, record)
    return outputs(layer, [_trt_type(operation, each, fields) for each in operation.outputs_of(fields)])


def _trt_type(operation: Operation, output: Operand, fields: Mapping[str, Any]) -> Any:
    """The type of an output: fixed, or told by a field."""
    if output.type not in fields:
        return to_trt_dtype(output.type)
    kind = Type(fields[output.type])
    return to_trt_dtype("fp8" if kind == Type.FLOAT8_E4M3 else kind.name.lower())


def _expanded(operation: Operation, fields: Mapping[str, Any], *inputs: Tensor) -> Any:
    return operation.expanded(fields, inputs)


def _check_names(operation: Operation, inputs: Mapping[str, Tensor | None]) -> None:
    names = [each.name for each in operation.inputs]
    for name in inputs:
        if name not in names:
            raise fail(f"{operation.name} has no input {name!r}. {nearest(name, names)}")
    for each in operation.inputs:
        if each.when is None and each.unless is None and inputs.get(each.name) is None:
            raise fail(f"{operation.name} needs its input {each.name!r}: {each.doc}")


def _type_of(operation: Operation, inputs: Mapping[str, Tensor]) -> Type:
    types = {name: readable(tensor.dtype) for name, tensor in inputs.items()}
    first = next(iter(types.values()))
    if first not in operation.types:
        raise fail(f"{operation.name} takes {', '.join(operation.types)}, not {first}")
    if others := {name: each for name, each in types.items() if each != first}:
        raise fail(f"{operation.name} takes inputs of one type: {next(iter(types))} is {first}, but {others}")
    return Type[first.upper()]


def _plugin(operation: Operation, fields: Mapping[str, Any]) -> Any:
    trt, creator = backend.tensorrt(), creator_of(operation)
    network = default_net()
    mark = network.log_mark()
    collection, _arrays = packed(operation, fields, trt)
    if _makes_v3(creator, trt):
        plugin = creator.create_plugin(operation.name, collection, trt.TensorRTPhase.BUILD)
    else:
        plugin = creator.create_plugin(operation.name, collection)
    if plugin is None:
        raise GraphError(
            f"the plugin {operation.plugin} was not made of {dict(fields)}: {network.logged_since(mark)}"
        )
    return plugin


def _layer(plugin: Any, tensors: list[Tensor]) -> Any:
    trt = backend.tensorrt()
    if hasattr(trt, "IPluginV3") and isinstance(plugin, trt.IPluginV3):
        return add_layer("add_plugin_v3", tensors, [], plugin)
    return add_layer("add_plugin_v2", tensors, plugin)


def _makes_v3(creator: Any, trt: Any) -> bool:
    """TensorRT 10 and 11 know creators of both kinds, 8.6 those of the second version alone."""
    return hasattr(trt, "IPluginCreatorV3One") and not isinstance(creator, trt.IPluginCreator)
