"""How a network is written down: `functional`, `Tensor`, `Network`, `net_guard`, `Module`, `Parameter`.

The names are TensorRT-LLM's. They resolve on first use: to `tensorrt_llm`'s own where that is installed with
its TensorRT path and NVIDIA's engine is in use (its functional with the few differences of `tensorrt_llm_functional`),
else to ours. Write `from trtllm_ext.graph import functional`; `from trtllm_ext.graph.functional import ...` takes ours
whichever is in use.
"""

import sys
from importlib import import_module
from types import ModuleType
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
    if theirs and name == "constant":
        value = _functional().constant
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


def _functional() -> ModuleType:
    theirs = backend.choice().graph == "tensorrt_llm"
    return import_module(f"{__name__}.{'tensorrt_llm_functional' if theirs else 'functional'}")


class _Graph(ModuleType):
    """This module, but for `functional`: importing the submodule of that name anywhere would bind ours here for all."""

    @property
    def functional(self) -> ModuleType:
        return _functional()

    @functional.setter
    def functional(self, submodule: ModuleType) -> None:
        return


sys.modules[__name__].__class__ = _Graph
