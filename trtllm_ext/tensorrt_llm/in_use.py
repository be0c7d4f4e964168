"""Whether TensorRT-LLM's graph API is what `trtllm_ext.graph` stands for in this process."""

from trtllm_ext import backend
from trtllm_ext.errors import BackendError


def require(what: str) -> None:
    """Raise BackendError, with the reasons, unless TensorRT-LLM's graph API is in use. what: who needs it."""
    choice = backend.choice()
    if choice.graph != "tensorrt_llm":
        raise BackendError(
            f"{what} needs TensorRT-LLM's graph API, which is not in use here ({'; '.join(choice.reasons)}). "
            "`trtllm-ext build` and `trtllm_ext.layers` need no TensorRT-LLM."
        )
