"""TensorRT's Python API (that of 10.14) on any CPU: `import trtllm_ext.embedded as trt`.

Names, signatures, enumerations and error behaviour are TensorRT's, for the part of it that transformer networks
use. Networks are kept here, lowered to ONNX when an engine is built, and run by ONNX Runtime; neither is imported
before that.
"""

import sys
from typing import Any

from trtllm_ext.embedded.builder import Builder
from trtllm_ext.embedded.config import IBuilderConfig
from trtllm_ext.embedded.enums import (
    ActivationType,
    AllocatorFlag,
    APILanguage,
    AttentionNormalizationOp,
    BoundingBoxFormat,
    BuilderFlag,
    CalibrationAlgoType,
    CumulativeOperation,
    DataType,
    DeviceType,
    DimensionOperation,
    ElementWiseOperation,
    EngineCapability,
    EngineStat,
    ErrorCode,
    ErrorCodeTRT,
    ExecutionContextAllocationStrategy,
    FillOperation,
    GatherMode,
    HardwareCompatibilityLevel,
    InterpolationMode,
    LayerInformationFormat,
    LayerType,
    LoopOutput,
    MatrixOperation,
    MemoryPoolType,
    NetworkDefinitionCreationFlag,
    OnnxParserFlag,
    PaddingMode,
    PluginArgDataType,
    PluginArgType,
    PluginCapabilityType,
    PluginCreatorVersion,
    PluginFieldType,
    PoolingType,
    PreviewFeature,
    ProfilingVerbosity,
    QuantizationFlag,
    QuickPluginCreationRequest,
    ReduceOperation,
    ResizeCoordinateTransformation,
    ResizeRoundMode,
    ResizeSelector,
    RuntimePlatform,
    SampleMode,
    ScaleMode,
    ScatterMode,
    SeekPosition,
    SerializationFlag,
    TacticSource,
    TempfileControlFlag,
    TensorFormat,
    TensorIOMode,
    TensorLocation,
    TensorRTPhase,
    TilingOptimizationLevel,
    TopKOperation,
    TripLimit,
    UnaryOperation,
    WeightsRole,
)
from trtllm_ext.embedded.host_memory import IHostMemory
from trtllm_ext.embedded.layers import (
    IActivationLayer,
    ICastLayer,
    IConcatenationLayer,
    IConstantLayer,
    IElementWiseLayer,
    IFillLayer,
    IGatherLayer,
    IIdentityLayer,
    ILayer,
    IMatrixMultiplyLayer,
    INormalizationLayer,
    IReduceLayer,
    ISelectLayer,
    IShapeLayer,
    IShuffleLayer,
    ISliceLayer,
    ISoftMaxLayer,
    IUnaryLayer,
)
from trtllm_ext.embedded.logger import ILogger, Logger
from trtllm_ext.embedded.network import INetworkDefinition
from trtllm_ext.embedded.profile import IOptimizationProfile
from trtllm_ext.embedded.running.context import IExecutionContext
from trtllm_ext.embedded.running.engine import ICudaEngine
from trtllm_ext.embedded.running.inspector import EngineInspector
from trtllm_ext.embedded.running.output_allocator import IOutputAllocator, IStreamWriter
from trtllm_ext.embedded.running.runtime import Runtime
from trtllm_ext.embedded.surface.absent import ABSENT
from trtllm_ext.embedded.surface.interfaces import (
    IDebugListener,
    IErrorRecorder,
    InterfaceInfo,
    IProfiler,
    IProgressMonitor,
    IStreamReader,
    IStreamReaderV2,
    IVersionedInterface,
    Profiler,
)
from trtllm_ext.embedded.tensor import ITensor
from trtllm_ext.embedded.timing_cache import ITimingCache
from trtllm_ext.embedded.types import (
    Dims,
    Dims2,
    Dims3,
    Dims4,
    DimsHW,
    Permutation,
    Weights,
    bfloat16,
    e8m0,
    float16,
    float32,
    fp4,
    fp8,
    int4,
    int8,
    int32,
    int64,
    nptype,
    uint8,
    volume,
)

# The release whose API this is; TensorRT-LLM parses it.
__version__ = "10.14.1.48"

# In TensorRT the names come from an extension module of this name.
tensorrt = sys.modules[__name__]


def __getattr__(name: str) -> Any:
    """A name of TensorRT's that nothing here implements: using what it gives raises an error that says so."""
    try:
        return ABSENT[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *ABSENT})


# Last: from here on the builtin of this name is out of reach in this module.
bool = DataType.BOOL

__all__ = [
    "APILanguage",
    "ActivationType",
    "AllocatorFlag",
    "AttentionNormalizationOp",
    "BoundingBoxFormat",
    "Builder",
    "BuilderFlag",
    "CalibrationAlgoType",
    "CumulativeOperation",
    "DataType",
    "DeviceType",
    "DimensionOperation",
    "Dims",
    "Dims2",
    "Dims3",
    "Dims4",
    "DimsHW",
    "ElementWiseOperation",
    "EngineCapability",
    "EngineInspector",
    "EngineStat",
    "ErrorCode",
    "ErrorCodeTRT",
    "ExecutionContextAllocationStrategy",
    "FillOperation",
    "GatherMode",
    "HardwareCompatibilityLevel",
    "IActivationLayer",
    "IBuilderConfig",
    "ICastLayer",
    "IConcatenationLayer",
    "IConstantLayer",
    "ICudaEngine",
    "IDebugListener",
    "IElementWiseLayer",
    "IErrorRecorder",
    "IExecutionContext",
    "IFillLayer",
    "IGatherLayer",
    "IHostMemory",
    "IIdentityLayer",
    "ILayer",
    "ILogger",
    "IMatrixMultiplyLayer",
    "INetworkDefinition",
    "INormalizationLayer",
    "IOptimizationProfile",
    "IOutputAllocator",
    "IProfiler",
    "IProgressMonitor",
    "IReduceLayer",
    "ISelectLayer",
    "IShapeLayer",
    "IShuffleLayer",
    "ISliceLayer",
    "ISoftMaxLayer",
    "IStreamReader",
    "IStreamReaderV2",
    "IStreamWriter",
    "ITensor",
    "ITimingCache",
    "IUnaryLayer",
    "IVersionedInterface",
    "InterfaceInfo",
    "InterpolationMode",
    "LayerInformationFormat",
    "LayerType",
    "Logger",
    "LoopOutput",
    "MatrixOperation",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "PaddingMode",
    "Permutation",
    "PluginArgDataType",
    "PluginArgType",
    "PluginCapabilityType",
    "PluginCreatorVersion",
    "PluginFieldType",
    "PoolingType",
    "PreviewFeature",
    "Profiler",
    "ProfilingVerbosity",
    "QuantizationFlag",
    "QuickPluginCreationRequest",
    "ReduceOperation",
    "ResizeCoordinateTransformation",
    "ResizeRoundMode",
    "ResizeSelector",
    "Runtime",
    "RuntimePlatform",
    "SampleMode",
    "ScaleMode",
    "ScatterMode",
    "SeekPosition",
    "SerializationFlag",
    "TacticSource",
    "TempfileControlFlag",
    "TensorFormat",
    "TensorIOMode",
    "TensorLocation",
    "TensorRTPhase",
    "TilingOptimizationLevel",
    "TopKOperation",
    "TripLimit",
    "UnaryOperation",
    "Weights",
    "WeightsRole",
    "__version__",
    "bfloat16",
    "bool",
    "e8m0",
    "float16",
    "float32",
    "fp4",
    "fp8",
    "int4",
    "int8",
    "int32",
    "int64",
    "nptype",
    "tensorrt",
    "uint8",
    "volume",
]
