"""What a network means: a NumPy float64 interpreter of any `INetworkDefinition`.

Written from TensorRT's documentation and nothing else: it shares no code with what lowers or runs a network, so
that the two can be held against each other. Floating tensors are computed in float64 and never rounded to a
narrow type; integers and booleans are exact.
"""

from __future__ import annotations

from trtllm_ext.oracle.errors import OracleError
from trtllm_ext.oracle.interpreter import Evaluator, TraceStep, evaluate, trace
from trtllm_ext.oracle.kinds import CONTROL_KINDS, KINDS
from trtllm_ext.oracle.opaque import OpaqueLayer, opaque_layers

__all__ = [
    "CONTROL_KINDS",
    "KINDS",
    "Evaluator",
    "OpaqueLayer",
    "OracleError",
    "TraceStep",
    "evaluate",
    "opaque_layers",
    "trace",
]
