"""The creators that plugins come from: of the compiled library, or of the embedded engine's own in Python."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.plugin.operation import NAMESPACE, Operation
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.plugin_libraries import find_creator, load_plugin_library

_log = logging.getLogger(__name__)


def load_plugins(path: str | os.PathLike[str] | None = None) -> None:
    """Have the creators of namespace `trtllm_ext` in the registry of the process; a second time changes nothing.

    path: of the compiled library, for NVIDIA's engine; by default it is looked for as `runtime.own_plugins` does. The
    embedded engine has creators of its own and needs none: a library that is given is told of and not used.
    Raises BackendError when there is no library, or none for this TensorRT, and for a path that is no such library.
    """
    if backend.choice().engine == "embedded":
        from trtllm_ext.plugin.embedded_creators import register

        own_plugins.use(path)
        register(backend.tensorrt().get_plugin_registry())
    else:
        own_plugins.load(path)


def load_operation(operation: Operation, path: str | os.PathLike[str] | None = None) -> None:
    """Have the creator of an operation of your own in the registry of the process; a second time changes nothing.

    path: of the library that has its plugin, for NVIDIA's engine; the embedded engine computes its expansion, and is
    given the record anew where it was changed. To be called where networks with it are built, and where their engines
    are run.
    Raises BackendError when the plugin is not registered, and no library is given or it does not have it, when there
    is no file at `path`, and for another operation than this package's in its namespace.
    """
    _check_namespace(operation)
    if path is not None and not Path(path).is_file():
        raise BackendError(
            f"{os.fspath(path)}, the library of the plugin {operation.plugin!r}, is not there. Build it, or leave it "
            f"out: the embedded engine needs none."
        )
    registry = backend.tensorrt().get_plugin_registry()
    if backend.choice().engine == "embedded":
        from trtllm_ext.plugin.embedded_creators import register

        if path is not None:
            _log.warning("%s is not used: %s", os.fspath(path), own_plugins.NOT_USED)
        register(registry, [operation])
    elif path is not None and find_creator(registry, *operation.key) is None:
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
    if operation.namespace == NAMESPACE:
        _check_namespace(operation)
        if found is None:
            load_plugins()
    elif found is None or getattr(found, "operation", operation) != operation:
        load_operation(operation)
    found = find_creator(registry, *operation.key)
    if found is None:
        raise BackendError(own_plugins.missing_plugin(operation.plugin, operation.version))
    return found


def _check_namespace(operation: Operation) -> None:
    from trtllm_ext.plugin.operations import (
        BY_KEY,
    )  # whose formulas are made of layers, which ask for creators

    if operation.namespace == NAMESPACE and BY_KEY.get(operation.key) != operation:
        raise BackendError(
            f"the operation {operation.name!r} (plugin {operation.plugin!r}) is in namespace {NAMESPACE!r}, which is "
            f"for this package's own operations as they are. Give it a namespace of your own."
        )
