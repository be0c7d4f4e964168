"""Runs of an engine with taps: the stream, what is added to it, and the names of its parts."""

from trtllm_ext.analysis.running.running import StreamRun, stream_of

__all__ = ["StreamRun", "stream_of"]
