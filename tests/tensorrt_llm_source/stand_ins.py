"""What TensorRT-LLM's Python source wants beside TensorRT, and what stands in for it on a machine without a GPU.

TensorRT-LLM itself is compiled in part (`tensorrt_llm.bindings`, two shared libraries); it also imports packages for
GPUs, for MPI and for its other features. None of that takes part in defining a network, building an engine and running
it, so names are enough: whatever is asked of a stand-in is there, and using it gives another stand-in. Tests that want
results from them cannot pass, and are listed with that reason.
"""

import ctypes
import enum
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch

# Packages that are stood in for, if they are not installed; the first always.
COMPILED = ("tensorrt_llm.bindings",)
OPTIONAL = (
    "requests",
    "pandas",
    "accelerate",
    "cuda",
    "datasets",
    "evaluate",
    "h5py",
    "janus",
    "lark",
    "mpi4py",
    "modelopt",
    "nltk",
    "nvtx",
    "onnx_graphsurgeon",
    "optimum",
    "PIL",
    "pulp",
    "pynvml",
    "rouge_score",
    "sentencepiece",
    "strenum",
    "viztracer",
    "zmq",
)


# What makes tensors on a device that it is told.
_MAKERS = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "empty_strided",
    "eye",
    "full",
    "full_like",
    "linspace",
    "load",
    "normal",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "tensor",
    "tril",
    "triu",
    "zeros",
    "zeros_like",
]


class _Anything(type):
    """A class whose every attribute is another such class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _class(name)
        setattr(cls, name, made)
        return made

    def __iter__(cls) -> Any:
        return iter(())

    def __or__(cls, other: Any) -> Any:
        return cls

    def __int__(cls) -> int:
        return 0


def _class(name: str) -> Any:
    return _Anything(name, (_Base,), {})


class _Base(metaclass=_Anything):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Base()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _Base()

    def __iter__(self) -> Any:
        return iter(())

    def __int__(self) -> int:
        return 0

    def __index__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return False

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *raised: object) -> None:
        return None


class _Module(ModuleType):
    __path__: ClassVar[list[str]] = []
    # To the import system, a package like others.
    __version__ = "0.0"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        whole = f"{self.__name__}.{name}"
        made = importlib.import_module(whole) if whole in _SPECIAL else _class(name)
        setattr(self, name, made)
        return made


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the packages of these names and all below them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if any(name == each or name.startswith(f"{each}.") for each in self._names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        special = _SPECIAL.get(module.__name__)
        if special is not None:
            special(module)


def _cuda(module: Any) -> None:
    """cuda-python's calls give (status, ...); a status of 0 is success."""
    module.CUresult = _class("CUresult")
    module.CUresult.CUDA_SUCCESS = module.CUresult()
    success = module.CUresult.CUDA_SUCCESS
    module.cuInit = lambda *args: (success,)
    module.cuDeviceGet = lambda *args: (success, 0)
    module.cuDeviceGetAttribute = lambda *args: (success, 8)


def _cudart(module: Any) -> None:
    module.cudaError_t = _class("cudaError_t")
    success = module.cudaError_t.cudaSuccess = module.cudaError_t()
    for name in ("cudaMemcpyAsync", "cudaStreamSynchronize", "cudaDeviceSynchronize"):
        setattr(module, name, lambda *args: (success,))


def _mpi(module: Any) -> None:
    class World:
        rank, size = 0, 1

        def Get_rank(self) -> int:  # noqa: N802 - MPI's name
            return 0

        def Get_size(self) -> int:  # noqa: N802 - MPI's name
            return 1

        def Split_type(self, *args: Any, **kwargs: Any) -> "World":  # noqa: N802 - MPI's name
            return self

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    module.COMM_WORLD = World()


def _pynvml(module: Any) -> None:
    module.nvmlSystemGetDriverVersion = lambda: "999"


def _strenum(module: Any) -> None:
    module.StrEnum = module.LowercaseStrEnum = enum.StrEnum


def _bindings(module: Any) -> None:
    """The one binding whose value is written into files, and read from there."""

    class KVCacheType(enum.Enum):
        CONTINUOUS, PAGED, DISABLED = range(3)

        @classmethod
        def _missing_(cls, value: Any) -> Any:
            return cls[value.upper()]

    module.KVCacheType = KVCacheType


_SPECIAL = {
    "tensorrt_llm.bindings": _bindings,
    "cuda.cuda": _cuda,
    "cuda.cudart": _cudart,
    "mpi4py.MPI": _mpi,
    "pynvml": _pynvml,
    "strenum": _strenum,
    "StrEnum": _strenum,
}


def install() -> None:
    """Put the embedded engine at `tensorrt`, and stand-ins at what is missing."""
    import trtllm_ext.embedded

    sys.modules["tensorrt"] = trtllm_ext.embedded
    missing = tuple(name for name in OPTIONAL if importlib.util.find_spec(name) is None)
    sys.meta_path.insert(0, Finder((*COMPILED, *missing)))
    real_version = importlib.metadata.version
    importlib.metadata.version = lambda name: "99.0" if name in missing else real_version(name)
    # Its releases of today lack names that releases of then had; they serve converters only.
    sys.meta_path.append(Finder(("transformers",)))
    _fill_gaps("transformers")
    _torch_without_cuda()
    _polygraphy_without_cuda()


def _fill_gaps(name: str) -> None:
    module = importlib.import_module(name)
    kind = type(module)
    original = kind.__getattr__

    def found(self: Any, attribute: str) -> Any:
        try:
            return original(self, attribute)
        except (AttributeError, ImportError):
            if attribute.startswith("__"):
                raise
            return _class(attribute)

    kind.__getattr__ = found


def _torch_without_cuda() -> None:
    """Whatever asks for the GPU gets the CPU: tests say `.cuda()` and device='cuda' everywhere."""

    class Stream:
        cuda_stream = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            return

        def synchronize(self) -> None:
            return

        def wait_stream(self, other: Any) -> None:
            return

    class Properties:
        major, minor, multi_processor_count = 9, 0, 1
        total_memory = 2**34
        name = "CPU"

    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.device_count = lambda: 1
    cuda.current_device = lambda: 0
    cuda.current_stream = lambda *args: Stream()
    cuda.default_stream = cuda.current_stream
    cuda.Stream = Stream
    cuda.synchronize = lambda *args: None
    cuda.empty_cache = cuda.ipc_collect = lambda: None
    cuda.set_device = lambda *args: None
    cuda.manual_seed = cuda.manual_seed_all = lambda *args: None
    cuda.get_device_properties = lambda *args: Properties()
    cuda.get_device_capability = lambda *args: (9, 0)
    cuda.get_device_name = lambda *args: "CPU"
    cuda.mem_get_info = lambda *args: (2**34, 2**34)
    for name in ("memory_reserved", "memory_allocated", "max_memory_reserved", "max_memory_allocated"):
        setattr(cuda, name, lambda *args: 0)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    torch.Tensor.to = _on_cpu(torch.Tensor.to)
    torch.nn.Module.to = _on_cpu(torch.nn.Module.to)
    for name in _MAKERS:
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    torch.set_default_device = lambda *args: None


def _on_cpu(function: Any) -> Any:
    def called(*args: Any, **kwargs: Any) -> Any:
        args = tuple("cpu" if _is_cuda(value) else value for value in args)
        kwargs = {name: "cpu" if _is_cuda(value) else value for name, value in kwargs.items()}
        return function(*args, **kwargs)

    return called


def _is_cuda(value: Any) -> bool:
    if isinstance(value, str):
        return value.split(":")[0] == "cuda"
    return isinstance(value, torch.device) and value.type == "cuda"


def _polygraphy_without_cuda() -> None:
    """Polygraphy's runner takes its memory through this class."""
    import polygraphy.cuda.cuda as polygraphy_cuda

    class Cuda:
        def __init__(self) -> None:
            self._kept: dict[int, Any] = {}

        def create_stream(self) -> int:
            return 1

        def stream_synchronize(self, pointer: int) -> None:
            return

        def destroy_stream(self, pointer: int) -> None:
            return

        def malloc(self, nbytes: int) -> int:
            array = np.empty(max(nbytes, 1) + 64, np.uint8)
            address = (array.ctypes.data + 63) // 64 * 64
            self._kept[address] = array
            return address

        def free(self, pointer: int) -> None:
            self._kept.pop(pointer, None)

        def memcpy(self, dst: int, src: int, nbytes: int, kind: Any, stream_ptr: Any = None) -> None:
            ctypes.memmove(dst, src, nbytes)

    polygraphy_cuda.Cuda = Cuda
