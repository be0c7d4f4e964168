"""An `INetworkDefinition` to ONNX, for the embedded engine and for ONNX export.

The network is seen only through TensorRT's API on the object that is given; this room imports neither `tensorrt` nor
the embedded engine. Importing it loads onnx.
"""

from trtllm_ext.lowering.errors import LoweringError
from trtllm_ext.lowering.lower import lower
from trtllm_ext.lowering.registry import supported_kinds
from trtllm_ext.lowering.steps import (
    WEIGHTS_LOCATION,
    CollectiveStep,
    Expansion,
    Lowered,
    OnnxSegment,
    PluginStep,
    Step,
    Weight,
)

__all__ = [
    "WEIGHTS_LOCATION",
    "CollectiveStep",
    "Expansion",
    "Lowered",
    "LoweringError",
    "OnnxSegment",
    "PluginStep",
    "Step",
    "Weight",
    "lower",
    "supported_kinds",
]
