"""The stream as the sum of its parts, and what each does to the output."""

from trtllm_ext.analysis.decomposition.direct_effects import examine
from trtllm_ext.analysis.decomposition.following import follow

__all__ = ["examine", "follow"]
