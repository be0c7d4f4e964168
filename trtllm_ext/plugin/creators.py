"""The creators that plugins come from: of the compiled library, or of the embedded engine's own in Python."""

from __future__ import annotations

from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.plugin.operation import Operation
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.plugin_libraries import find_creator


def load_plugins(path: str | None = None) -> None:
    """Have the creators of namespace `trtllm_ext` in the registry of the process; a second time changes nothing.

    path: of the compiled library, for NVIDIA's engine; by default it is looked for as `runtime.own_plugins` does. The
    embedded engine has creators of its own and needs none.
    Raises BackendError when there is no library, or none for this TensorRT.
    """
    if backend.choice().engine == "embedded":
        from trtllm_ext.plugin.embedded_creators import register

        register(backend.tensorrt().get_plugin_registry())
    else:
        own_plugins.load(path)


def creator_of(operation: Operation) -> Any:
    """The creator of an operation's plugin, loaded if it was not there. Raises BackendError."""
    registry = backend.tensorrt().get_plugin_registry()
    found = find_creator(registry, *operation.key)
    if found is None:
        load_plugins()
        found = find_creator(registry, *operation.key)
    if found is None:
        raise BackendError(own_plugins.missing_plugin(operation.plugin, operation.version))
    return found
