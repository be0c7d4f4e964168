"""Whether this process can run an engine, by its envelope alone: the library, the device, the plugins.

TensorRT's own answer to a foreign engine is a log line at best. Each mismatch here is one sentence with the way out,
told before a byte of the engine is read.
"""

import re
from typing import Any

from trtllm_ext import backend
from trtllm_ext.errors import BackendError, EngineError
from trtllm_ext.runtime import own_plugins
from trtllm_ext.runtime.device import compute_capability
from trtllm_ext.runtime.envelope import Envelope, PluginSummary
from trtllm_ext.runtime.loading import HOST_CODE_VARIABLE, host_code_allowed
from trtllm_ext.runtime.plugin_libraries import find_creator, library_of

# TensorRT's developer guide, "Version Compatibility", and the support matrix of 11.4, "Engine Portability": an engine
# built as version-compatible by 8.6 or later runs on its own release, on later ones of the same major version, and on
# these major versions: (built by, run by).
_OLDEST_COMPATIBLE = (8, 6)
_ACROSS_MAJORS = {(8, 9), (8, 10), (9, 10), (10, 11)}
# Ampere's first, for hardware_compatibility_level "ampere_plus".
_AMPERE = (8, 0)


def check_host(envelope: Envelope, engine: str, directory: str) -> None:
    """Raise EngineError unless engine kind, library, device and plugins of this process can run an engine.

    engine, directory: the engine file and its directory, as messages name them.
    """
    here = backend.choice().engine
    if envelope.engine_kind != here:
        raise EngineError(
            f"{engine} was built by the {envelope.engine_kind} engine ({envelope.engine_version}, for "
            f"{envelope.compute_capability}), but this process uses the {here} engine. Set "
            f"{backend.ENVIRONMENT_VARIABLE}={envelope.engine_kind} where that engine is installed "
            f"(`trtllm-ext doctor` explains the choice), or {rebuilding(directory)}."
        )
    trt = backend.tensorrt()
    if here == "tensorrt":  # an embedded plan carries its own format version, and runs on any CPU
        version = str(getattr(trt, "__version__", "unknown"))
        if problem := version_problem(envelope, version):
            raise EngineError(f"{engine} {problem}, or {rebuilding(directory)}.")
        if problem := device_problem(envelope, compute_capability()):
            raise EngineError(f"{engine} {problem}, or {rebuilding(directory)}.")
        if envelope.version_compatible and not host_code_allowed():
            raise EngineError(
                f"{engine} was built version-compatible, so it brings code of TensorRT's that runs on the host. "
                f"Set {HOST_CODE_VARIABLE}=1 if you trust where the file comes from, or "
                f'{rebuilding(directory)} with a --build_config that holds "version_compatible": false.'
            )
    for plugin in envelope.plugins:
        if plugin.namespace == own_plugins.NAMESPACE and here == "embedded":
            continue  # its plans hold the plain layers that the plugin stands for
        if problem := own_plugin_problem(plugin, envelope) or plugin_problem(plugin, trt):
            raise EngineError(f"{engine} {problem}, or {rebuilding(directory)}.")


def rebuilding(directory: str) -> str:
    """The last way out of every mismatch, to end a sentence with."""
    return (
        f"build it again here, as it was: `trtllm-ext build --from-engine {directory} --checkpoint_dir CHECKPOINT "
        f"--output_dir {directory}`"
    )


def filling(directory: str, checkpoint: str = "CHECKPOINT") -> str:
    """The command that puts weights into a stripped engine."""
    return f"`trtllm-ext refit --engine_dir {directory} --checkpoint_dir {checkpoint} --output_dir FILLED`"


def version_problem(envelope: Envelope, version: str) -> str | None:
    """Why TensorRT `version` cannot run the engine, and what to install; None when it can."""
    built = envelope.engine_version
    if version == built:
        return None
    if not envelope.version_compatible:
        return (
            f"was built by TensorRT {built}, but TensorRT {version} is installed, and an engine that is not "
            f"version-compatible runs only on the version that built it. Install {built}"
        )
    if runs_on_version(built, version):
        return None
    majors = sorted({run for by, run in _ACROSS_MAJORS if by == _numbers(built)[0]})
    further = f", or of {' or '.join(map(str, majors))}" if majors else ""
    return (
        f"was built version-compatible by TensorRT {built}, but TensorRT {version} is installed; such an engine runs "
        f"on {built} and later releases of {_numbers(built)[0]}{further}. Install one of these"
    )


def runs_on_version(built: str, version: str) -> bool:
    """TensorRT's rule for version-compatible engines: whether the release `version` runs what `built` has built."""
    by, run = _numbers(built), _numbers(version)
    if by < _OLDEST_COMPATIBLE or run < _OLDEST_COMPATIBLE:
        return False
    if by[0] == run[0]:
        return run >= by
    return (by[0], run[0]) in _ACROSS_MAJORS


def device_problem(envelope: Envelope, capability: str) -> str | None:
    """Why a device of that compute capability cannot run the engine; None when it can."""
    built, level = envelope.compute_capability, envelope.hardware_compatibility_level
    if capability == built:
        return None
    if level == "ampere_plus":
        if _numbers(capability) >= _AMPERE:
            return None
        return (
            f"was built for devices of compute capability {_AMPERE[0]}.{_AMPERE[1]} and above (hardware compatibility "
            f"level ampere_plus), but this device has {capability}. Run it on a newer one"
        )
    kept = f" and hardware compatibility level {level}" if level != "none" else ""
    return (
        f"was built for compute capability {built}{kept}, but this device has {capability}. Run it on a device of "
        f"{built}"
    )


def own_plugin_problem(plugin: PluginSummary, envelope: Envelope) -> str | None:
    """Why this package's library of plugins does not give the plugin, which is loaded now; None when it does."""
    if plugin.namespace != own_plugins.NAMESPACE:
        return None
    if problem := own_plugins.plugin_problem(plugin.name, plugin.version):
        by = (
            f"{plugin.library} for TensorRT {envelope.engine_version}" if plugin.library else "an application"
        )
        return f"was built with the plugin {plugin} of {by}: {problem.removesuffix('.')}"
    return None


def plugin_problem(plugin: PluginSummary, trt: Any) -> str | None:
    """Why the creators registered in this process are not those of the engine; None when they are."""
    try:
        registry = trt.get_plugin_registry()
    except (AttributeError, RuntimeError) as problem:
        raise BackendError(f"TensorRT's plugin registry cannot be asked: {problem}.") from problem
    loading = "trtllm_ext.runtime.plugin_libraries.load_plugin_library"
    if find_creator(registry, plugin.name, plugin.version, plugin.namespace) is None:
        if plugin.library:
            return (
                f"needs the plugin {plugin} of {plugin.library}, which is not registered here. Load that library "
                f"first with {loading}"
            )
        return (
            f"needs the plugin {plugin}, which is not registered here. Register its creator first (TensorRT's own by "
            f"tensorrt.init_libnvinfer_plugins)"
        )
    if not plugin.library_sha256:
        return None
    found = library_of(plugin.name, plugin.version, plugin.namespace)
    if found is None:
        return (
            f"was built with the plugin {plugin} of {plugin.library} (sha256 {plugin.library_sha256[:12]}...), and "
            f"here the one registered came from no library that is known. Load the library with {loading}"
        )
    if found.sha256 != plugin.library_sha256:
        return (
            f"was built with the plugin {plugin} of {plugin.library} (sha256 {plugin.library_sha256[:12]}...), but "
            f"the one loaded here is of {found.name} (sha256 {found.sha256[:12]}...). Load the library that it was "
            f"built with"
        )
    return None


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version: "10.14.1.48.post1" gives (10, 14, 1, 48)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else (0,)
