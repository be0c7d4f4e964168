"""Decides which TensorRT and which graph API are in use. Nothing else in the package asks.

| engine     | when                                                              |
| ---------- | ----------------------------------------------------------------- |
| `tensorrt` | NVIDIA's `tensorrt` imports and a device answers                  |
| `embedded` | otherwise: `trtllm_ext.embedded`, the same API over ONNX Runtime  |

| graph          | when                                                                            |
| -------------- | ------------------------------------------------------------------------------- |
| `tensorrt_llm` | the engine is NVIDIA's, and `tensorrt_llm` still has its TensorRT path          |
| `trtllm_ext`   | otherwise: `trtllm_ext.graph`, the same names on whichever engine was chosen    |

`TRTLLM_EXT_BACKEND` is `auto` (default), `tensorrt` or `embedded`. Cases are told apart by what the libraries
can do, never by their version numbers: pre-releases on both sides of TensorRT-LLM's removal carry the same
number.
"""

import ctypes
import functools
import importlib
import importlib.util
import os
import sys
from dataclasses import dataclass
from types import ModuleType

from trtllm_ext.errors import BackendError

ENVIRONMENT_VARIABLE = "TRTLLM_EXT_BACKEND"
REQUESTS = ("auto", "tensorrt", "embedded")
EMBEDDED_MODULE = "trtllm_ext.embedded"


@dataclass(frozen=True)
class Choice:
    """What is in use: `engine` is 'tensorrt' or 'embedded', `graph` is 'tensorrt_llm' or 'trtllm_ext'."""

    engine: str
    graph: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Probe:
    """Whether a library can serve; `detail` is a sentence for people, `module` is set when it can."""

    detail: str
    module: ModuleType | None = None


def choice() -> Choice:
    """The engine and the graph API in use.

    Raises BackendError when `TRTLLM_EXT_BACKEND` is unknown or asks for a TensorRT that cannot be used.
    """
    return _choose(os.environ.get(ENVIRONMENT_VARIABLE, "auto") or "auto")


def tensorrt() -> ModuleType:
    """The module in use that has TensorRT's Python API: NVIDIA's `tensorrt`, or `trtllm_ext.embedded`."""
    return importlib.import_module("tensorrt" if choice().engine == "tensorrt" else EMBEDDED_MODULE)


def engine() -> tuple[str, str]:
    """The engine in use, 'tensorrt' or 'embedded', and why; as `choice`, without the import of tensorrt_llm.

    Raises BackendError as `choice` does.
    """
    return _choose_engine(os.environ.get(ENVIRONMENT_VARIABLE, "auto") or "auto")


@functools.cache
def _choose(request: str) -> Choice:
    engine, reason = _choose_engine(request)
    if engine == "embedded":
        graph = "graph API: trtllm_ext.graph, the one that runs on the embedded engine"
        return Choice("embedded", "trtllm_ext", (f"engine: {reason}", graph))
    llm = probe_tensorrt_llm()
    return Choice(
        "tensorrt",
        "trtllm_ext" if llm.module is None else "tensorrt_llm",
        (
            f"engine: {reason}",
            f"graph API: {'trtllm_ext.graph' if llm.module is None else 'tensorrt_llm'}, since {llm.detail}",
        ),
    )


def _choose_engine(request: str) -> tuple[str, str]:
    if request not in REQUESTS:
        raise BackendError(
            f"{ENVIRONMENT_VARIABLE}={request!r} is not known; it takes one of {', '.join(REQUESTS)}."
        )
    if request == "embedded":
        return "embedded", f"embedded, as {ENVIRONMENT_VARIABLE}=embedded asks"
    found = probe_tensorrt()
    if found.module is not None:
        return "tensorrt", f"tensorrt, since {found.detail}"
    if request == "tensorrt":
        raise BackendError(
            f"{ENVIRONMENT_VARIABLE}=tensorrt, but {found.detail}. Install a TensorRT that works here, "
            f"or set {ENVIRONMENT_VARIABLE}=embedded to run on the CPU."
        )
    return "embedded", f"embedded, since {found.detail}"


def probe_tensorrt() -> Probe:
    """Whether NVIDIA's `tensorrt` can be used here: it must import, and a device must answer."""
    if not _is_installed("tensorrt"):
        return Probe("the package tensorrt is not installed")
    try:
        module = importlib.import_module("tensorrt")
    except Exception as error:  # a missing shared object surfaces as ImportError, OSError or RuntimeError
        return Probe(f"the package tensorrt does not import ({_first_line(error)})")
    if not hasattr(module, "Builder"):
        return Probe(
            "the package tensorrt has no Builder (it is an installer stub without the library; see NVIDIA's "
            "installation guide)"
        )
    version = getattr(module, "__version__", "of unknown version")
    usable = bool(cuda_device_count())
    return Probe(
        f"tensorrt {version} {'imports and' if usable else 'is installed but'} {describe_cuda()}",
        module if usable else None,
    )


def probe_tensorrt_llm() -> Probe:
    """Whether `tensorrt_llm` is there and still has its TensorRT path: `functional`, `net_guard`, ...."""
    if not _is_installed("tensorrt_llm"):
        return Probe("the package tensorrt_llm is not installed")
    try:
        module = importlib.import_module("tensorrt_llm")
    except Exception as error:
        return Probe(f"the package tensorrt_llm does not import ({_first_line(error)})")
    version = getattr(module, "__version__", "of unknown version")
    # A cut-down tensorrt_llm.functional outlived the removal, so the module's existence says nothing.
    if not hasattr(module, "net_guard"):
        return Probe(
            f"tensorrt_llm {version} has no TensorRT path (it was removed in 2026; 1.2.1 is the last stable "
            "release with it)"
        )
    return Probe(f"tensorrt_llm {version} has its TensorRT path", module)


def describe_cuda() -> str:
    """Half a sentence on what the NVIDIA driver answers."""
    count = cuda_device_count()
    if count is None:
        return "no NVIDIA driver is loaded here (libcuda.so.1 is missing)"
    if count == 0:
        return "the NVIDIA driver reports no usable device"
    return f"{count} NVIDIA device{'s' if count > 1 else ''} can be used"


def cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library, to be asked questions; None where there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


@functools.cache
def cuda_device_count() -> int | None:
    """How many devices the NVIDIA driver offers, asked of the driver itself; None without a driver."""
    driver = cuda_driver()
    if driver is None:
        return None
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _is_installed(package: str) -> bool:
    if package in sys.modules:
        return True
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
