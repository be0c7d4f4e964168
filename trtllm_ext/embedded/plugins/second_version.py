"""The interfaces of the second version. Classes may derive from them; a network does not take their objects."""

from trtllm_ext.embedded.plugins.interfaces import IPluginCreatorInterface
from trtllm_ext.embedded.surface.interfaces import Interface


class IPluginV2(Interface):
    """A plugin without dynamic shapes."""


class IPluginV2Ext(IPluginV2):
    """A plugin with a type for each output."""


class IPluginV2DynamicExtBase(IPluginV2):
    """What plugins with dynamic shapes share."""


class IPluginV2DynamicExt(IPluginV2DynamicExtBase):
    """A plugin with dynamic shapes."""

    FORMAT_COMBINATION_LIMIT = 100


class IPluginCreator(Interface, IPluginCreatorInterface):
    """Makes plugins of the second version; a registry keeps it, and no engine uses it."""

    _info = ("PLUGIN CREATOR_V1", 1, 0)
    name: str
    plugin_version: str
    plugin_namespace: str
