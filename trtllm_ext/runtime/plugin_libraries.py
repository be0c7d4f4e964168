"""Which shared library each plugin creator came from: noted when it is loaded, asked for by envelopes.

TensorRT's registry knows creators by name, version and namespace, and not where their code is. An engine's envelope
does (`PluginSummary`), so that a library that was built again, or another of the same names, is met before the engine.
"""

import ctypes
import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.runtime.envelope import PluginSummary

# Name, version and namespace, as TensorRT's registry has them.
CreatorKey = tuple[str, str, str]

_CHUNK = 1 << 20
# One for the process, as the registry is.
_noted: dict[CreatorKey, "PluginLibrary"] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class PluginLibrary:
    """A shared library of plugins. name: its file's base name. sha256: of the file as it was when it was loaded."""

    name: str
    sha256: str


def load_plugin_library(path: str | os.PathLike[str], registry: Any = None) -> Any:
    """Load a library of plugins, and note its creators.

    registry: by default the process's, which engines are loaded with.
    Returns the registry's handle, for `deregister_library`; None for a library that TensorRT's loadLibrary does not
    take and that registers its creators when it is opened, as libraries with REGISTER_TENSORRT_PLUGIN do. It stays
    open, also if it turns out to bring no plugin.
    Raises BackendError when the file is not there, and when it brings no plugin either way.
    """
    file = Path(path)
    library = library_of_file(file)
    registry = registry or backend.tensorrt().get_plugin_registry()
    before = _keys(registry)
    try:
        handle = registry.load_library(os.fspath(file))
    except RuntimeError as problem:
        raise BackendError(f"{file} cannot be loaded as a library of plugins: {problem}") from problem
    problem_of_opening = _open(file) if handle is None else ""
    new = _keys(registry) - before
    if handle is None and not new:
        raise BackendError(
            f"{file} cannot be loaded as a library of plugins: TensorRT refused it, as it does when a creator of the "
            f"same name, version and namespace is registered already, and when the file needs libraries that are not "
            f"found (`ldd {file}` tells); opened by itself {problem_of_opening or 'it registered no creator'}."
        )
    _note(library, new)
    return handle


def _open(file: Path) -> str:
    """Opens a library for good; what went wrong, or nothing."""
    try:
        ctypes.CDLL(os.fspath(file.resolve()))
    except OSError as problem:
        return f"the loader says: {problem}"
    return ""


def note_library(path: str | os.PathLike[str], creators: Iterable[Any]) -> PluginLibrary:
    """Note that these creators, already registered, came from the library at `path`; for loaders of one's own.

    creators: objects with `name`, `plugin_version` and `plugin_namespace`. Raises BackendError without the file.
    """
    library = library_of_file(Path(path))
    _note(library, {_key(creator) for creator in creators})
    return library


def library_of(name: str, version: str, namespace: str = "") -> PluginLibrary | None:
    """Where a creator came from; None for one that was registered otherwise."""
    with _lock:
        return _noted.get((name, version, namespace))


def summary_of_plugin(name: str, version: str, namespace: str = "") -> PluginSummary:
    """A plugin for an envelope, with its library where that is known."""
    found = library_of(name, version, namespace)
    summary = PluginSummary(name=name, version=version, namespace=namespace)
    if found is None:
        return summary
    return PluginSummary(
        name=name, version=version, namespace=namespace, library=found.name, library_sha256=found.sha256
    )


def library_of_file(path: Path) -> PluginLibrary:
    """The name and digest of a library's file. Raises BackendError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
    except OSError as problem:
        raise BackendError(f"{path} cannot be read as a library of plugins: {problem}.") from problem
    return PluginLibrary(path.name, digest.hexdigest())


def find_creator(registry: Any, name: str, version: str, namespace: str = "") -> Any:
    """The creator in a registry of any TensorRT's, or None."""
    # TensorRT 8 and 9 know plugins of the second version only.
    find = getattr(registry, "get_creator", None) or registry.get_plugin_creator
    return find(name, version, namespace)


def _keys(registry: Any) -> set[CreatorKey]:
    creators = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
    return {_key(creator) for creator in creators}


def _key(creator: Any) -> CreatorKey:
    return (str(creator.name), str(creator.plugin_version), str(creator.plugin_namespace or ""))


def _note(library: PluginLibrary, keys: Iterable[CreatorKey]) -> None:
    with _lock:
        _noted.update(dict.fromkeys(keys, library))
