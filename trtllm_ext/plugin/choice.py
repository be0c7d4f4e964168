"""Whether the network being defined asks for a plugin in a place, and for a look at what is between its layers."""

from __future__ import annotations

import logging
from fnmatch import fnmatchcase
from typing import Any

from trtllm_ext.graph.network import current_net
from trtllm_ext.plugin.operation import Operation
from trtllm_ext.runtime.dtypes import readable

_log = logging.getLogger(__name__)


def asks_for(setting: str, operation: Operation, dtype: Any) -> bool:
    """Whether `plugin_config` asks for the plugin of an operation in a layer of this type."""
    network = current_net()  # None for a network of TensorRT-LLM's too
    asked = None if network is None else getattr(network.plugin_config, setting)
    if asked is None:
        return False
    name = readable(dtype)
    if asked == "auto" and name not in operation.types:
        return not decline(setting, f"the type is {name}, which the plugin does not take")
    return asked in ("auto", name)


def decline(setting: str, reason: str) -> bool:
    """Log, once a network, why TensorRT's own layers have a place that asks for a plugin. Always true."""
    network = current_net()
    if network is not None and (setting, reason) not in network.plugin_config.declined:
        network.plugin_config.declined.add((setting, reason))
        _log.warning("%s: TensorRT's own layers where %s", setting, reason)
    return True


def allows_tf32() -> bool:
    """Whether float32 products may round their factors to TF32."""
    network = current_net()
    return network is not None and network.plugin_config.tf32


def is_tapped(module: Any, point: str) -> bool:
    """Whether what `module` notes under `point` may become an output of the network."""
    network = current_net()
    if network is None or not network.tap_patterns:
        return False
    name = network.modules.dotted_name(module)
    # A module that is used twice notes a second one with a number.
    names = () if name is None else (f"{name}.{point}", f"{name}.{point}_1")
    return name is None or any(
        fnmatchcase(each, pattern) for each in names for pattern in network.tap_patterns
    )
