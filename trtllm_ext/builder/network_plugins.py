"""The plugins of a network: which are asked for, and which its layers run on, for the envelope of its engine."""

import logging
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

from trtllm_ext import backend
from trtllm_ext.builder.build_config import BuildConfig
from trtllm_ext.errors import ConfigError
from trtllm_ext.graph.network import Network
from trtllm_ext.graph.plugin_config import NO_PLUGIN, OWN_PLUGINS
from trtllm_ext.plugin.feed_forward import FEED_FORWARD
from trtllm_ext.plugin.gated_activation import GATED_ACTIVATION
from trtllm_ext.plugin.residual_norm import RESIDUAL_NORM
from trtllm_ext.runtime.envelope import PluginSummary
from trtllm_ext.runtime.own_plugins import NAMESPACE
from trtllm_ext.runtime.plugin_libraries import summary_of_plugin

_log = logging.getLogger(__name__)
_told: WeakSet[Network] = WeakSet()
# The plugins that a layer which a setting is about may be in: activations are parts of whole feed-forwards.
_TAKEN_BY = {
    "ffn_plugin": {FEED_FORWARD.key},
    "residual_norm_plugin": {RESIDUAL_NORM.key},
    "gated_activation_plugin": {GATED_ACTIVATION.key, FEED_FORWARD.key},
}


def ask_for_plugins(network: Any, build_config: BuildConfig) -> None:
    """Have a network that is to be defined take the plugins that the build config asks for, and know of its taps.

    Raises ConfigError where it is one of TensorRT-LLM's, whose layers have plugins of their own.
    """
    config = build_config.plugin_config
    asked = {name: config[name] for name in OWN_PLUGINS if config.get(name) not in NO_PLUGIN}
    if not isinstance(network, Network):
        if asked:
            raise ConfigError(
                f"plugin_config: {', '.join(asked)} belong to networks of trtllm_ext.graph; with the graph API of "
                f"TensorRT-LLM leave them out."
            )
        return
    for name, value in asked.items():
        setattr(network.plugin_config, name, value)
    network.plugin_config.tf32 = build_config.tf32
    network.tap_patterns = build_config.tap_patterns


def tell_of_unused_plugins(network: Any) -> None:
    """Log each plugin that was asked for and that no layer of the network took, where no reason was told before.

    Once a network. That all activations are inside of plugins for whole feed-forwards is no warning.
    """
    if not isinstance(network, Network) or network in _told:
        return
    _told.add(network)
    config = network.plugin_config
    taken = {(each.name, each.version, each.namespace) for each in network.plugins.values()}
    told = {setting for setting, _ in config.declined}
    for name in OWN_PLUGINS:
        asked = getattr(config, name)
        if asked is not None and name not in told and not taken & _TAKEN_BY[name]:
            only = "" if asked == "auto" else f" of type {asked}"
            _log.warning("%s=%s: the network has no layer%s for this plugin", name, asked, only)
    inside = FEED_FORWARD.key in taken and GATED_ACTIVATION.key not in taken
    if inside and config.gated_activation_plugin is not None:
        _log.info(
            "gated_activation_plugin: all activations that it asks for are inside of FeedForward plugins"
        )


def plugins_of(trt_network: Any) -> tuple[PluginSummary, ...]:
    """Each plugin of an `INetworkDefinition` once, in the order of the layers."""
    trt = backend.tensorrt()
    return tuple(dict.fromkeys(summary_of_plugin(*each) for each in _identities(trt_network, trt)))


def spare_handles(trt_network: Any, config: Any) -> None:
    """Have TensorRT 8 not load cuBLAS and cuDNN for this package's plugins, which take neither's handle.

    It gives every plugin both handles (`IPluginV2Ext::attachToContext`): no build passes where a library is missing,
    unless their tactic sources are off. Its own layers do without them since 8.6, by default (PreviewFeature
    DISABLE_EXTERNAL_TACTIC_SOURCES_FOR_CORE_0805). A network with others' plugins is left as it is.
    """
    trt = backend.tensorrt()
    if backend.choice().engine == "embedded" or hasattr(trt, "IPluginV3"):
        return
    namespaces = {namespace for _, _, namespace in _identities(trt_network, trt)}
    if namespaces == {NAMESPACE}:
        sources = trt.TacticSource
        handles = (1 << int(sources.CUBLAS)) | (1 << int(sources.CUBLAS_LT)) | (1 << int(sources.CUDNN))
        config.set_tactic_sources(config.get_tactic_sources() & ~handles)


def _identities(trt_network: Any, trt: Any) -> Iterator[tuple[str, str, str]]:
    """Name, version and namespace of each plugin layer's plugin."""
    for index in range(trt_network.num_layers):
        layer = trt_network.get_layer(index)
        kind = trt.ILayer.type.__get__(layer, type(layer)).name
        if kind == "PLUGIN_V3":
            plugin = _as(layer, trt.IPluginV3Layer).plugin
            core = plugin.get_capability_interface(trt.PluginCapabilityType.CORE)
            yield str(core.plugin_name), str(core.plugin_version), str(core.plugin_namespace or "")
        elif kind in ("PLUGIN_V2", "PLUGIN"):
            plugin = _as(layer, getattr(trt, "IPluginV2Layer", type(layer))).plugin
            yield str(plugin.plugin_type), str(plugin.plugin_version), str(plugin.plugin_namespace or "")


def _as(layer: Any, own_class: type) -> Any:
    """The layer as an object of its own class: networks of TensorRT give out plain ILayers."""
    if not isinstance(layer, own_class):
        layer.__class__ = own_class
    return layer
