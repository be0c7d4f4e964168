"""The creators that plugins come from: of the compiled library, or of the embedded engine's own in Python."""

from __future__ import annotations

import os
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.plugin.operation import NAMESPACE, Operation
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.plugin_libraries import find_creator, load_plugin_library


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


def load_operation(operation: Operation, path: str | os.PathLike[str] | None = None) -> None:
    """Have the creator of an operation of your own in the registry of the process; a second time changes nothing.

    path: of the library that has its plugin, for NVIDIA's engine; the embedded engine needs none. To be called where
    networks with it are built, and where their engines are run.
    Raises BackendError when the plugin is not registered, and no library is given or it does not have it.
    """
    registry = backend.tensorrt().get_plugin_registry()
    if find_creator(registry, *operation.key) is not None:
        return
    if backend.choice().engine == "embedded":
        from trtllm_ext.plugin.embedded_creators import register

        register(registry, [operation])
    elif path is not None:
        load_plugin_library(path, registry)
    if find_creator(registry, *operation.key) is None:
        plugin = f"{operation.plugin!r} version {operation.version!r} in namespace {operation.namespace!r}"
        without = "" if path is None else f", and {os.fspath(path)} does not have it"
        raise BackendError(
            f"the plugin {plugin} is not registered{without}. Give the library that has it: "
            f"trtllm_ext.plugin.creators.load_operation(operation, path)."
        )


def creator_of(operation: Operation) -> Any:
    """The creator of an operation's plugin, loaded if it was not there. Raises BackendError."""
    registry = backend.tensorrt().get_plugin_registry()
    found = find_creator(registry, *operation.key)
    if found is None and operation.namespace == NAMESPACE:
        load_plugins()
    elif found is None:
        load_operation(operation)
    found = found or find_creator(registry, *operation.key)
    if found is None:
        raise BackendError(own_plugins.missing_plugin(operation.plugin, operation.version))
    return found
