"""Runs of an engine with surgery, and what differs."""

from trtllm_ext.analysis.steering.steering import Surgery

__all__ = ["Surgery"]
