"""Plugins made again from what an engine keeps of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtllm_ext.embedded.enums import PluginCapabilityType, PluginFieldType, TensorRTPhase
from trtllm_ext.embedded.plan.plugins import FieldRecord, PluginRecord
from trtllm_ext.embedded.plugins.asking import PluginError, PluginHandle, described, guarded
from trtllm_ext.embedded.plugins.fields import ELEMENT, PluginField, PluginFieldCollection_
from trtllm_ext.embedded.plugins.interfaces import IPluginCreatorV3One, IPluginResourceContext
from trtllm_ext.embedded.plugins.registry import IPluginRegistry
from trtllm_ext.errors import EngineError


def make_plugins(records: Sequence[PluginRecord], registry: IPluginRegistry) -> list[PluginHandle]:
    """The plugins of an engine, in the order of `records`.

    Raises EngineError naming every plugin whose creator is not registered, or what a creator did wrong.
    """
    missing = without_creator(records, registry)
    if missing:
        raise EngineError(
            f"the engine needs {'; and '.join(missing)}. Register the creator before the engine is loaded: "
            "get_plugin_registry().register_creator(creator, namespace)."
        )
    try:
        return [_made(record, registry) for record in records]
    except PluginError as error:
        raise EngineError(str(error)) from error


def without_creator(records: Sequence[PluginRecord], registry: IPluginRegistry) -> list[str]:
    """The plugins that no creator in a registry makes, in words, each once."""
    return list(
        dict.fromkeys(
            _missing(record, registry)
            for record in records
            if registry.get_creator(record.name, record.version, record.namespace) is None
        )
    )


def attached(handle: PluginHandle, record: PluginRecord) -> PluginHandle:
    """A clone of a plugin for one execution context. Raises PluginError."""
    context = object.__new__(IPluginResourceContext)
    runtime = handle.part(PluginCapabilityType.RUNTIME)
    plugin = handle.ask(runtime, "attach_to_context", context)
    clone = handle.other(plugin, "attach_to_context()")
    clone.ask(clone.part(PluginCapabilityType.RUNTIME), "set_tactic", record.tactic)
    return clone


def _missing(record: PluginRecord, registry: IPluginRegistry) -> str:
    needed = f"{described(record.name, record.version, record.namespace)}, which no creator is registered for"
    others = [
        f"version {creator.plugin_version!r}, namespace {getattr(creator, 'plugin_namespace', '')!r}"
        for creator in registry.all_creators_recursive
        if creator.name == record.name
    ]
    return f"{needed} (only {', '.join(others)})" if others else needed


def _made(record: PluginRecord, registry: IPluginRegistry) -> PluginHandle:
    label = described(record.name, record.version, record.namespace)
    creator = registry.get_creator(record.name, record.version, record.namespace)
    if not isinstance(creator, IPluginCreatorV3One):
        raise PluginError(f"{label}: its creator {creator!r:.200} is no IPluginCreatorV3One")
    fields = PluginFieldCollection_(_field(label, one) for one in record.fields)
    source = f"{label}: create_plugin()"
    plugin = guarded(
        lambda: creator.create_plugin(record.layer, fields, TensorRTPhase.RUNTIME), f"{source} of its creator"
    )
    handle = PluginHandle(plugin, source)
    handle.part(PluginCapabilityType.RUNTIME)
    return handle


def _field(label: str, record: FieldRecord) -> PluginField:
    kind = PluginFieldType[record.type]
    element = ELEMENT[kind]
    if len(record.data) % element.itemsize:
        raise PluginError(
            f"{label}: field {record.name!r} has {len(record.data)} bytes, no whole number of {kind.name}"
        )
    return PluginField(record.name, np.frombuffer(record.data, element), kind)
