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
    from trtllm_ext.graph.dtypes import str_dtype_to_trt
    from trtllm_ext.graph.functional import constant
    from trtllm_ext.graph.module import Module, ModuleList
    from trtllm_ext.graph.network import Network, default_net, default_trtnet, net_guard, precision
    from trtllm_ext.graph.parameter import Parameter
    from trtllm_ext.graph.tensor import Tensor

# name -> (our module, tensorrt_llm's module); both below their own package
_HOME = {
    "Module": ("module", "module"),
    "ModuleList": ("module", "module"),
    "Network": ("network", "network"),
    "Parameter": ("parameter", "parameter"),
    "Tensor": ("tensor", "functional"),
    "constant": ("functional", "functional"),
    "default_net": ("network", "_common"),
    "default_trtnet": ("network", "_common"),
    "net_guard": ("network", "network"),
    "precision": ("network", "_common"),
    "str_dtype_to_trt": ("dtypes", "_utils"),
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
    "str_dtype_to_trt",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    theirs = backend.choice().graph == "tensorrt_llm"
    package = "tensorrt_llm" if theirs else __name__
    if name == "functional":
        value: Any = import_module(f"{package}.functional")
    else:
        value = getattr(import_module(f"{package}.{_HOME[name][theirs]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
