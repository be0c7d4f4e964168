"""Engines at run time: the engine directory, its envelope, and the session that runs one."""

from trtllm_ext.runtime.engine_dir import EngineDir
from trtllm_ext.runtime.envelope import Envelope
from trtllm_ext.runtime.ranks.following import LeadingSession, lead
from trtllm_ext.runtime.ranks.rehearsal import Rehearsal
from trtllm_ext.runtime.session import Session
from trtllm_ext.runtime.tensor_info import TensorInfo

__all__ = ["EngineDir", "Envelope", "LeadingSession", "Rehearsal", "Session", "TensorInfo", "lead"]
