"""Feed-forward sublayers and residual connections as TensorRT networks.

Defined once, built into engines, and run on TensorRT or, where there is nothing from NVIDIA, on the
embedded engine.
Importing this package loads none of torch, tensorrt, mpi4py, onnx or onnxruntime: names load on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trtllm_ext.version import __version__

if TYPE_CHECKING:
    from trtllm_ext.builder import BuildConfig, Builder, Engine, build, build_engine_dir
    from trtllm_ext.checkpoint import convert
    from trtllm_ext.graph import (
        Module,
        ModuleList,
        Network,
        Parameter,
        Tensor,
        constant,
        default_net,
        default_trtnet,
        functional,
        net_guard,
        precision,
        str_dtype_to_trt,
    )
    from trtllm_ext.models import model_from_checkpoint
    from trtllm_ext.parallel import Mapping
    from trtllm_ext.runtime import Session, TensorInfo

_HOME = {
    "BuildConfig": "builder",
    "Builder": "builder",
    "Engine": "builder",
    "Mapping": "parallel",
    "Module": "graph",
    "ModuleList": "graph",
    "Network": "graph",
    "Parameter": "graph",
    "Session": "runtime",
    "Tensor": "graph",
    "TensorInfo": "runtime",
    "build": "builder",
    "build_engine_dir": "builder",
    "convert": "checkpoint",
    "constant": "graph",
    "default_net": "graph",
    "default_trtnet": "graph",
    "functional": "graph",
    "model_from_checkpoint": "models",
    "net_guard": "graph",
    "precision": "graph",
    "str_dtype_to_trt": "graph",
}
_ROOMS = ("builder", "checkpoint", "embedded", "graph", "layers", "models", "oracle", "parallel", "runtime")

__all__ = [
    "BuildConfig",
    "Builder",
    "Engine",
    "Mapping",
    "Module",
    "ModuleList",
    "Network",
    "Parameter",
    "Session",
    "Tensor",
    "TensorInfo",
    "__version__",
    "build",
    "build_engine_dir",
    "constant",
    "convert",
    "default_net",
    "default_trtnet",
    "functional",
    "model_from_checkpoint",
    "net_guard",
    "precision",
    "str_dtype_to_trt",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS]
