"""Where TensorRT-LLM is in charge: its trtllm-build building our models, and its models made of our sublayers.

Needs a TensorRT-LLM with its TensorRT path, as `trtllm-ext doctor` shows it, when something is called.
"""

from trtllm_ext.tensorrt_llm.mlps import replace_mlps

__all__ = ["replace_mlps"]
