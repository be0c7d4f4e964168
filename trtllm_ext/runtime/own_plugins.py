"""The project's own library of plugins, libtrtllm_ext_plugins.so: found, read about, and loaded, in this order.

What a library was built for stands in it as text, and is read without loading it: one for another major version of
TensorRT would take that down, not refuse itself.
"""

import json
import logging
import multiprocessing
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from trtllm_ext import backend
from trtllm_ext.errors import BackendError
from trtllm_ext.runtime.plugin_libraries import find_creator, load_plugin_library

NAMESPACE = "trtllm_ext"
LIBRARY = "libtrtllm_ext_plugins.so"
VARIABLE = "TRTLLM_EXT_PLUGINS"
PACKAGE_DATA = Path(__file__).parents[1] / "plugin" / "lib"
BUILDING = "Build it for this TensorRT with `make plugins` (TENSORRT_ROOT names its headers)"

NOT_USED = "the embedded engine takes the plain layers that a plugin stands for, and no library"

_INFO = re.compile(rb"TRTLLM_EXT_PLUGINS_INFO_BEGIN(.{0,65536}?)TRTLLM_EXT_PLUGINS_INFO_END", re.DOTALL)


@dataclass(frozen=True)
class PluginLibraryInfo:
    """What a library says of itself.

    tensorrt: the release whose headers it was compiled with. architectures: compute capabilities, as nvcc has them.
    plugins: name, version and namespace of each.
    """

    path: Path
    tensorrt: str
    tensorrt_major: int
    kernels_abi: int
    cuda: str
    architectures: str
    plugins: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        return f"{self.path}, for TensorRT {self.tensorrt}, CUDA {self.cuda}, {self.architectures}"


_log = logging.getLogger(__name__)
_lock = threading.RLock()
_asked_for: Path | None = None
_loaded: PluginLibraryInfo | None = None


def use(path: str | os.PathLike[str] | None) -> None:
    """Have this process load the library at `path`, when it needs one; None leaves it as it is.

    A warning tells that the embedded engine needs none.
    Raises BackendError when there is no such file, when it is not the library, and when the process has another one.
    """
    global _asked_for
    if path is not None:
        wanted = read_info(_existing(Path(path), "the plugin library that was asked for")).path
        with _lock:
            if _loaded is not None and not _is_loaded(wanted):
                raise BackendError(_another(wanted, _loaded))
            started = multiprocessing.parent_process() is not None  # to build a rank: who started it has told
            if backend.choice().engine == "embedded" and _asked_for != wanted and not started:
                _log.warning("%s is not used: %s", wanted, NOT_USED)
            _asked_for = wanted


def asked_for() -> Path | None:
    """What `use` was told."""
    return _asked_for


def find_library(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Where the library is: `path`, or what `use` was told, else the package's own, else what TRTLLM_EXT_PLUGINS names.

    None if nowhere. Raises BackendError when `path`, or what the variable names, is no file.
    """
    path = path if path is not None else _asked_for
    if path is not None:
        return _existing(Path(path), "the plugin library that was asked for")
    if (PACKAGE_DATA / LIBRARY).is_file():
        return PACKAGE_DATA / LIBRARY
    named = os.environ.get(VARIABLE)
    return _existing(Path(named), f"the plugin library that {VARIABLE} names") if named else None


def read_info(path: Path) -> PluginLibraryInfo:
    """What the library at `path` says of itself, read as text. Raises BackendError for any other file."""
    try:
        code = path.read_bytes()
    except OSError as problem:
        raise BackendError(f"{path} cannot be read as a library of plugins: {problem}.") from problem
    found = _INFO.search(code)
    if found is None and b"trtllm_ext_kernels_abi" in code:
        raise BackendError(
            f"{path} has the kernels alone, without plugins for TensorRT. Build those with `make plugins "
            f"TENSORRT_ROOT=...`, which makes {LIBRARY}; the kernels alone are for PyTorch and C++."
        )
    if found is None:
        raise BackendError(
            f"{path} is not a library of this project's plugins: it does not say what it was built for. {BUILDING}, or "
            f"load a library of others with trtllm_ext.runtime.plugin_libraries.load_plugin_library."
        )
    try:
        value = json.loads(found[1].strip(b"\0\n "))
        return PluginLibraryInfo(
            path=path,
            tensorrt=str(value["tensorrt"]),
            tensorrt_major=int(value["tensorrt_major"]),
            kernels_abi=int(value["kernels_abi"]),
            cuda=str(value["cuda"]),
            architectures=str(value["architectures"]),
            plugins=tuple((each["name"], each["version"], each["namespace"]) for each in value["plugins"]),
        )
    except (ValueError, KeyError, TypeError) as problem:
        raise BackendError(
            f"{path} is damaged: what it says of itself cannot be read ({problem}). {BUILDING}."
        ) from problem


def load(path: str | os.PathLike[str] | None = None) -> PluginLibraryInfo:
    """Load the library into NVIDIA's TensorRT, once a process, and return what it says of itself.

    path: as for `find_library`. Raises BackendError when there is none, when it was built for another major version of
    TensorRT, when another file of the kind is loaded already, and when TensorRT refuses it.
    """
    global _loaded
    with _lock:
        if _loaded is not None and (path is None or _is_loaded(path)):
            return _loaded
        if _loaded is not None:
            raise BackendError(_another(path, _loaded))
        trt = backend.tensorrt()
        found = find_library(path)
        if found is None:
            raise BackendError(missing_library())
        info = read_info(found)
        if problem := version_problem(info, str(trt.__version__)):
            raise BackendError(problem)
        registry = trt.get_plugin_registry()
        if any(find_creator(registry, *each) is None for each in info.plugins):
            load_plugin_library(found, registry)
        else:
            _log.warning(
                "%s is not loaded: an application has registered plugins of its names already, and those are used",
                found,
            )
        _loaded = info
        return info


def version_problem(info: PluginLibraryInfo, version: str) -> str | None:
    """Why a library does not fit TensorRT `version`, and what to do; None where it does."""
    if str(info.tensorrt_major) == version.partition(".")[0]:
        return None
    return (
        f"{info.path} was built for TensorRT {info.tensorrt}, but TensorRT {version} is in use, and a library of "
        f"plugins works with its own major version alone. {BUILDING}."
    )


def plugin_problem(name: str, version: str) -> str | None:
    """Why NVIDIA's TensorRT has no plugin of that name and version in this process, after a look; None if it has."""
    registry = backend.tensorrt().get_plugin_registry()
    if find_creator(registry, name, version, NAMESPACE) is not None:
        return None
    try:
        load()
    except BackendError as problem:
        return str(problem)
    if find_creator(registry, name, version, NAMESPACE) is not None:
        return None
    return missing_plugin(name, version)


def missing_library() -> str:
    """That there is no library, and the way to one."""
    return (
        f"the plugins of namespace {NAMESPACE!r} are not built: {PACKAGE_DATA} has no {LIBRARY}, and {VARIABLE} names "
        f"none. {BUILDING}, or set {VARIABLE} to one, or leave the plugin settings out: the same networks are built of "
        f"TensorRT's own layers then."
    )


def missing_plugin(name: str, version: str) -> str:
    """That the library that is loaded has another version of a plugin, or none of that name, and the way out."""
    if _loaded is None:
        return missing_library()
    there = [each[1] for each in _loaded.plugins if each[0] == name]
    has = f"has version {' and '.join(map(repr, there))}" if there else f"has no {name!r}"
    return (
        f"the plugin {name!r} version {version!r} in namespace {NAMESPACE!r} is needed, but {_loaded.path} (built for "
        f"TensorRT {_loaded.tensorrt}) {has} of it. Use the library of the trtllm_ext that asks for it: `make plugins`."
    )


def _is_loaded(path: str | os.PathLike[str]) -> bool:
    return _loaded is not None and Path(path).resolve() == _loaded.path.resolve()


def _another(path: str | os.PathLike[str] | None, there: PluginLibraryInfo) -> str:
    return f"{path} cannot be loaded: this process has the plugins of {there}. Start another process for it."


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        raise BackendError(f"{path}, {what}, is not there. {BUILDING}, or leave it out.")
    return path
