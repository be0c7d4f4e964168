"""Where TensorRT-LLM is in charge: its trtllm-build building our models, and its models made of our sublayers.

Needs a TensorRT-LLM with its TensorRT path, as `trtllm-ext doctor` shows it; nothing is imported before it is used.
"""

from typing import Any

__all__ = ["replace_mlps"]


def replace_mlps(model: Any, make: Any = None) -> list[str]:
    """See `trtllm_ext.tensorrt_llm.mlps.replace_mlps`."""
    from trtllm_ext.tensorrt_llm.mlps import replace_mlps as replace

    return replace(model, make)
