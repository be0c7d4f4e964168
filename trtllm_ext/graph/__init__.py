"""How a network is written down: `functional`, `Tensor`, `Network`, `net_guard`, `Module`, `Parameter`.

The names are TensorRT-LLM's. They resolve on first use: to `tensorrt_llm`'s own where that is installed with
its TensorRT path and NVIDIA's engine is in use, else to ours. Write `from trtllm_ext.graph import functional`;
`import trtllm_ext.graph.functional` always names ours.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from trtllm_ext import backend

if TYPE_CHECKING:
    from trtllm_ext.graph import functional
    from trtllm_ext.graph.dtypes import str_dtype_to_torch, str_dtype_to_trt, torch_dtype_to_trt
    from trtllm_ext.graph.functional import constant
    from trtllm_ext.graph.module import Module, ModuleList
    from trtllm_ext.graph.network import Network, default_net, default_trtnet, net_guard, precision
    from trtllm_ext.graph.parameter import Parameter
    from trtllm_ext.graph.tensor import Tensor

# Where ours are. tensorrt_llm has them all at its top, but for ModuleList.
_HOME = {
    "Module": "module",
    "ModuleList": "module",
    "Network": "network",
    "Parameter": "parameter",
    "Tensor": "tensor",
    "constant": "functional",
    "default_net": "network",
    "default_trtnet": "network",
    "net_guard": "network",
    "precision": "network",
    "str_dtype_to_torch": "dtypes",
    "str_dtype_to_trt": "dtypes",
    "torch_dtype_to_trt": "dtypes",
}

__all__ = [
    "Module",
    "ModuleList",
    "Network",
    "Parameter",
    "Tensor",
    "constant",
    "default_net",
    "default_trtnet",
    "functional",
    "net_guard",
    "precision",
    "str_dtype_to_torch",
    "str_dtype_to_trt",
    "torch_dtype_to_trt",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    theirs = backend.choice().graph == "tensorrt_llm"
    value: Any
    if name == "functional":
        value = import_module("tensorrt_llm.functional" if theirs else f"{__name__}.functional")
    elif theirs:
        value = getattr(
            import_module("tensorrt_llm.module" if name == "ModuleList" else "tensorrt_llm"), name
        )
    else:
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
