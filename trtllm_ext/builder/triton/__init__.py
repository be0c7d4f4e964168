"""Models for NVIDIA's Triton Inference Server: its repository, and the config.pbtxt that stands in it."""

from trtllm_ext.builder.triton.files import TritonModel
from trtllm_ext.builder.triton.repository import export_triton

__all__ = ["TritonModel", "export_triton"]
