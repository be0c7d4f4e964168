"""The files of plugin libraries that an engine needs beside it."""

import os
from collections.abc import Iterable
from pathlib import Path

from trtllm_ext.errors import BackendError, BuildError
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.own_plugins import LIBRARY, find_library
from trtllm_ext.runtime.plugin_libraries import library_of_file


def libraries_of(envelope: Envelope, given: Iterable[str | os.PathLike[str]] = ()) -> tuple[Path, ...]:
    """The very files that the engine was built with: among those given, else this package's own.

    Raises BuildError for one that is not found, and for plugins of Python code, which Triton cannot load. BackendError
    for a file that is given and not there.
    """
    files = [Path(each) for each in given]
    for file in files:
        if not file.is_file():
            raise BackendError(f"{file}, given as a plugin library, is not there.")
    found = {}
    for plugin in envelope.plugins:
        if not plugin.library:
            if _is_tensorrts(plugin.namespace):
                continue
            raise BuildError(
                f"plugin {plugin} of the engine came from Python code, and Triton loads shared libraries alone. Build "
                f'it as one (docs/plugins.md, "A plugin of your own"), load that, and build the engine again.'
            )
        if plugin.library not in found:
            found[plugin.library] = _file_of(plugin.library, plugin.library_sha256, files)
    return tuple(found.values())


def _is_tensorrts(namespace: str) -> bool:
    """TensorRT's own plugins have no namespace; Triton registers them itself."""
    return namespace == ""


def _file_of(name: str, sha256: str, given: Iterable[Path]) -> Path:
    own = find_library() if name == LIBRARY else None
    named = [file for file in (*given, *([own] if own is not None else [])) if file.name == name]
    for file in named:
        if library_of_file(file).sha256 == sha256:
            return file
    others = f"; {', '.join(map(str, named))} is another build of that name" if named else ""
    raise BuildError(
        f"the engine's plugins are in {name} (sha256 {sha256[:12]}...), which is not found{others}. Give the file that "
        f"it was built with: --plugin_library FILE; or build the engine again with the library that is here."
    )
