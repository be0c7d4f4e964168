"""The interfaces that a plugin and its creator implement, third version: what NVIDIA calls V3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType, PluginCapabilityType, TensorRTPhase
from trtllm_ext.embedded.plugins.descriptions import DynamicPluginTensorDesc, PluginTensorDesc
from trtllm_ext.embedded.plugins.expressions import DimsExprs, IExprBuilder
from trtllm_ext.embedded.plugins.fields import PluginFieldCollection, PluginFieldCollection_
from trtllm_ext.embedded.surface.interfaces import Interface, IVersionedInterface


class _Required:
    """An attribute that a plugin or creator must set before it is used."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        try:
            return vars(instance)[self._name]
        except KeyError:
            return self._unset(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value

    def _unset(self, instance: Any) -> Any:
        raise AttributeError(f"{type(instance).__name__}.{self._name} is not initialized; set it")


class _Optional(_Required):
    """An attribute that has a value until it is set."""

    def __init__(self, default: Any) -> None:
        self._default = default

    def _unset(self, instance: Any) -> Any:
        return self._default


class _Part(Interface):
    """What all parts of a plugin share."""

    def __init__(self, arg0: Any = None) -> None:
        """Nothing to set up; subclasses call it as TensorRT demands. arg0: another part, whose attributes are taken."""
        if arg0 is not None:
            vars(self).update(vars(arg0))


class IPluginResource(Interface, IVersionedInterface):
    """Something that plugins share through the registry, under a key."""

    _info = ("IPluginResource", 1, 0)

    def clone(self) -> IPluginResource:
        """The object that the registry keeps and hands out."""
        self._missing("clone")

    def release(self) -> None:
        """Give back what a clone holds; nobody uses it any more."""
        self._missing("release")


class IPluginResourceContext:
    """What an execution context offers a plugin attached to it. The embedded engine has neither of the two."""

    def __init__(self) -> None:
        raise TypeError("IPluginResourceContext: No constructor defined! attach_to_context() is given one.")

    @property
    def gpu_allocator(self) -> None:
        """Always None: memory is host memory."""
        return None

    @property
    def error_recorder(self) -> None:
        """Always None: errors go to the logger."""
        return None


class IPluginCapability(IVersionedInterface):
    """One part of a plugin."""


class IPluginV3OneCore(_Part, IPluginCapability):
    """What a plugin calls itself; `plugin_name`, `plugin_version` and `plugin_namespace` must be set."""

    _info = ("PLUGIN_V3ONE_CORE", 1, 0)
    plugin_name = _Required()
    plugin_version = _Required()
    plugin_namespace = _Required()


class IPluginV3OneBuild(_Part, IPluginCapability):
    """What an engine is built with; `num_outputs` must be set."""

    _info = ("PLUGIN_V3ONE_BUILD", 1, 0)
    DEFAULT_FORMAT_COMBINATION_LIMIT = 100
    num_outputs = _Required()
    format_combination_limit = _Optional(DEFAULT_FORMAT_COMBINATION_LIMIT)
    metadata_string = _Optional(None)
    timing_cache_id = _Optional(None)

    def get_output_data_types(self, input_types: list[DataType]) -> Sequence[DataType]:
        """The types of the outputs."""
        self._missing("get_output_data_types")

    def get_output_shapes(
        self, inputs: list[DimsExprs], shape_inputs: list[DimsExprs], expr_builder: IExprBuilder
    ) -> Sequence[DimsExprs]:
        """The lengths of the outputs, from lengths of inputs and elements of shape inputs."""
        self._missing("get_output_shapes")

    def supports_format_combination(
        self, pos: int, in_out: list[DynamicPluginTensorDesc], num_inputs: int
    ) -> bool:
        """Whether tensor `pos` (inputs first, then outputs) may be as `in_out[pos]` says, after those before it."""
        self._missing("supports_format_combination")

    def configure_plugin(
        self, in_: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> None:
        """Told types and ranges of all tensors, once a profile."""
        self._missing("configure_plugin")

    def get_workspace_size(
        self, in_: list[DynamicPluginTensorDesc], out: list[DynamicPluginTensorDesc]
    ) -> int:
        """Bytes of scratch memory that `enqueue()` needs: none, unless overridden."""
        return 0

    def get_valid_tactics(self) -> Sequence[int]:
        """Positive numbers of the ways to compute: none, unless overridden. The embedded engine takes the first."""
        return []


class IPluginV3OneBuildV2(IPluginV3OneBuild):
    """Adds outputs that lie in the memory of an input."""

    _info = ("PLUGIN_V3ONE_BUILD", 2, 0)

    def get_aliased_input(self, output_index: int) -> int:
        """The input in whose memory the output is, or -1."""
        return -1


class IPluginV3OneRuntime(_Part, IPluginCapability):
    """What an engine is run with."""

    _info = ("PLUGIN_V3ONE_RUNTIME", 1, 0)

    def set_tactic(self, tactic: int) -> None:
        """Told which of the tactics to use, 0 if there are none."""
        self._missing("set_tactic")

    def on_shape_change(self, in_: list[PluginTensorDesc], out: list[PluginTensorDesc]) -> None:
        """Told the exact shapes before a run with others than in the last one."""
        self._missing("on_shape_change")

    def enqueue(
        self,
        input_desc: list[PluginTensorDesc],
        output_desc: list[PluginTensorDesc],
        inputs: list[int],
        outputs: list[int],
        workspace: int,
        stream: int,
    ) -> None:
        """Compute; `inputs`, `outputs` and `workspace` are addresses of host memory.

        When it returns it must have finished. Inputs must not be written.
        """
        self._missing("enqueue")

    def attach_to_context(self, resource_context: IPluginResourceContext) -> IPluginV3:
        """A clone of the whole plugin for one execution context."""
        self._missing("attach_to_context")

    def get_fields_to_serialize(self) -> PluginFieldCollection | PluginFieldCollection_:
        """The fields that an engine keeps, from which the creator makes the plugin again."""
        self._missing("get_fields_to_serialize")


class IPluginV3(_Part, IVersionedInterface):
    """A plugin: gives out its parts, and clones itself."""

    _info = ("PLUGIN_V3", 1, 0)

    def get_capability_interface(self, type: PluginCapabilityType) -> Any:
        """The part of the plugin of this type."""
        self._missing("get_capability_interface")

    def clone(self) -> IPluginV3:
        """A copy with the same parameters."""
        self._missing("clone")

    def destroy(self) -> None:
        """Told that the plugin is not used any more: nothing to do, unless overridden."""


class IPluginCreatorInterface(IVersionedInterface):
    """Something that makes plugins."""


class IPluginCreator(Interface, IPluginCreatorInterface):
    """Makes plugins of the second interface; a registry keeps it, and no engine of the embedded kind uses it."""

    _info = ("PLUGIN CREATOR_V1", 1, 0)
    name = _Required()
    plugin_version = _Required()
    plugin_namespace = _Required()
    field_names = _Required()

    def create_plugin(self, name: str, field_collection: PluginFieldCollection_) -> Any:
        """A plugin made from fields."""
        self._missing("create_plugin")

    def deserialize_plugin(self, name: str, serialized_plugin: bytes) -> Any:
        """A plugin made from what it was serialized to."""
        self._missing("deserialize_plugin")


class IPluginCreatorV3One(Interface, IPluginCreatorInterface):
    """Makes plugins; `name`, `plugin_version` and `plugin_namespace` must be set."""

    _info = ("PLUGIN CREATOR_V3ONE", 1, 0)
    name = _Required()
    plugin_version = _Required()
    plugin_namespace = _Required()
    field_names = _Required()

    def create_plugin(
        self, name: str, field_collection: PluginFieldCollection_, phase: TensorRTPhase
    ) -> IPluginV3 | None:
        """A plugin made from fields, for building or for running; None if it cannot be made."""
        self._missing("create_plugin")
