"""Names that TensorRT's module has and the embedded engine has no implementation for.

Each exists, so that code which only names it (in an annotation, a subclass, an isinstance check) runs; using it says
what is not supported, and what to use instead. A name that the module defines itself hides the one here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from trtllm_ext.embedded.layers.base import ILayer
from trtllm_ext.embedded.surface.interfaces import IVersionedInterface
from trtllm_ext.errors import BackendError


class NotSupportedError(BackendError, NotImplementedError):
    """Something of TensorRT that the embedded engine does not have was used."""


def refuse(name: str, instead: str) -> NoReturn:
    """Raise NotSupportedError for the public name `name`."""
    raise NotSupportedError(f"{name} is not supported by the embedded engine; {instead}")


class Absent:
    """A class whose objects cannot be made. Subclasses may be defined, and fail the same way."""

    _instead: ClassVar[str] = ""

    def __init_subclass__(cls, instead: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if instead is not None:
            cls._instead = instead

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        supported = next(base for base in type(self).__mro__ if base.__module__ == __name__)
        refuse(supported.__name__, self._instead)


_NO_CALIBRATION = "put quantize and dequantize layers into the network instead of calibrating it."
_NO_TACTICS = "it has no tactics to choose from; leave the config's algorithm_selector at None."
_NO_PARSER = "define the network with the add_ methods, or run the ONNX file with ONNX Runtime itself."
_NO_DEVICE_MEMORY = "all memory is host memory, which ONNX Runtime allocates; leave gpu_allocator at None."


class IInt8Calibrator(Absent, instead=_NO_CALIBRATION):
    """Gives batches to an implicit quantization."""


class IInt8LegacyCalibrator(IInt8Calibrator):
    """A calibrator."""


class IInt8EntropyCalibrator(IInt8Calibrator):
    """A calibrator."""


class IInt8EntropyCalibrator2(IInt8Calibrator):
    """A calibrator."""


class IInt8MinMaxCalibrator(IInt8Calibrator):
    """A calibrator."""


class IAlgorithm(Absent, instead=_NO_TACTICS):
    """One way to compute a layer on a GPU."""


class IAlgorithmContext(Absent, instead=_NO_TACTICS):
    """A layer about to get its algorithm."""


class IAlgorithmIOInfo(Absent, instead=_NO_TACTICS):
    """Formats that an algorithm takes and gives."""


class IAlgorithmVariant(Absent, instead=_NO_TACTICS):
    """Implementation and tactic of an algorithm."""


class IAlgorithmSelector(Absent, instead=_NO_TACTICS):
    """Chooses algorithms."""


class IGpuAllocator(Absent, IVersionedInterface, instead=_NO_DEVICE_MEMORY):
    """Gives GPU memory to TensorRT."""


class IGpuAsyncAllocator(IGpuAllocator):
    """Gives GPU memory to TensorRT, in the order of a stream."""


class OnnxParser(Absent, instead=_NO_PARSER):
    """Reads an ONNX file into a network."""


class OnnxParserRefitter(Absent, instead="set weights with Refitter.set_named_weights() instead."):
    """Refits an engine from an ONNX file."""


class ParserError(Absent, instead=_NO_PARSER):
    """An error of the ONNX parser."""


class NodeIndices(Absent, instead=_NO_PARSER):
    """Numbers of ONNX nodes."""


class SubGraphCollection(Absent, instead=_NO_PARSER):
    """Parts of an ONNX graph."""


class IAttention(Absent, instead="build attention from matrix_multiply and softmax layers."):
    """Fused attention."""


class AbsentLayer(ILayer):
    """A layer that no add_ method makes."""

    __slots__ = ()


class IAttentionBoundaryLayer(AbsentLayer):
    """Border of a fused attention."""

    __slots__ = ()


class IAttentionInputLayer(IAttentionBoundaryLayer):
    """Input of a fused attention."""

    __slots__ = ()


class IAttentionOutputLayer(IAttentionBoundaryLayer):
    """Output of a fused attention."""

    __slots__ = ()


class IDynamicQuantizeLayer(AbsentLayer):
    """Quantization in blocks, with scales computed at run time."""

    __slots__ = ()


class IGridSampleLayer(AbsentLayer):
    """Sampling at the points of a grid."""

    __slots__ = ()


class ILRNLayer(AbsentLayer):
    """Local response normalization."""

    __slots__ = ()


class INMSLayer(AbsentLayer):
    """Suppression of boxes that overlap a better one."""

    __slots__ = ()


class IPluginV2Layer(AbsentLayer):
    """A plugin of the second interface."""

    __slots__ = ()


class IRaggedSoftMaxLayer(AbsentLayer):
    """Softmax over sequences of different lengths."""

    __slots__ = ()


_PLUGINS_V3 = "write the plugin for IPluginV3 and add it with add_plugin_v3()."


class IPluginV2(Absent, instead=_PLUGINS_V3):
    """A plugin of the second interface."""


class IPluginV2Ext(IPluginV2):
    """A plugin of the second interface with a type for each output."""


class IPluginV2DynamicExtBase(IPluginV2):
    """What plugins of the second interface with dynamic shapes share."""


class IPluginV2DynamicExt(IPluginV2DynamicExtBase):
    """A plugin of the second interface with dynamic shapes."""

    FORMAT_COMBINATION_LIMIT = 100


class IPluginCreatorV3Quick(Absent, instead=_PLUGINS_V3):
    """Makes plugins out of functions of `tensorrt.plugin`."""


class IPluginV3QuickCore(Absent, instead=_PLUGINS_V3):
    """A plugin made of a function."""


class IPluginV3QuickBuild(Absent, instead=_PLUGINS_V3):
    """A plugin made of a function."""


class IPluginV3QuickAOTBuild(IPluginV3QuickBuild):
    """A plugin made of a function that is compiled beforehand."""


class IPluginV3QuickRuntime(Absent, instead=_PLUGINS_V3):
    """A plugin made of a function."""


class ISymExpr(Absent, instead=_PLUGINS_V3):
    """An argument of a kernel that is compiled beforehand."""


class ISymExprs(Absent, instead=_PLUGINS_V3):
    """Arguments of a kernel that is compiled beforehand."""


class KernelLaunchParams(Absent, instead=_PLUGINS_V3):
    """How a kernel that is compiled beforehand is started."""


class FallbackString(Absent, instead="pass a str."):
    """A str or None on its way to C++."""


def get_nv_onnx_parser_version() -> int:
    """There is no parser, so this raises NotSupportedError."""
    refuse("get_nv_onnx_parser_version()", _NO_PARSER)


# What the module falls back to for a name that it does not define.
ABSENT: Mapping[str, Any] = {
    "get_nv_onnx_parser_version": get_nv_onnx_parser_version,
    **{
        name: value
        for name, value in vars().items()
        if isinstance(value, type) and issubclass(value, Absent | AbsentLayer) and name.startswith("I")
    },
    **{
        cls.__name__: cls
        for cls in (
            FallbackString,
            KernelLaunchParams,
            NodeIndices,
            OnnxParser,
            OnnxParserRefitter,
            ParserError,
            SubGraphCollection,
        )
    },
}
