"""From a Hugging Face model folder to a checkpoint directory."""

from trtllm_ext.checkpoint.convert.convert import convert
from trtllm_ext.checkpoint.convert.report import ConversionReport, ConvertedWeight, DroppedWeight

__all__ = ["ConversionReport", "ConvertedWeight", "DroppedWeight", "convert"]
