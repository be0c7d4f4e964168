"""What writes the residual stream of a model and what reads it, by name."""

from trtllm_ext.analysis.stream_map.reading import read_stream_map
from trtllm_ext.analysis.stream_map.stream_map import Matrix, Norm, Part, Reader, StreamMap, Vector, Writer

__all__ = ["Matrix", "Norm", "Part", "Reader", "StreamMap", "Vector", "Writer", "read_stream_map"]
