"""The layer classes: views of the nodes of a network, one class for each kind."""

from trtllm_ext.embedded.layers.arithmetic import (
    IActivationLayer,
    ICastLayer,
    IElementWiseLayer,
    IIdentityLayer,
    IMatrixMultiplyLayer,
    INormalizationLayer,
    IReduceLayer,
    ISelectLayer,
    ISoftMaxLayer,
    IUnaryLayer,
)
from trtllm_ext.embedded.layers.assertion import IAssertionLayer
from trtllm_ext.embedded.layers.base import ILayer
from trtllm_ext.embedded.layers.collective import IDistCollectiveLayer
from trtllm_ext.embedded.layers.control import (
    IConditionLayer,
    IIfConditionalBoundaryLayer,
    IIfConditionalInputLayer,
    IIfConditionalOutputLayer,
    IIteratorLayer,
    ILoopBoundaryLayer,
    ILoopOutputLayer,
    IRecurrenceLayer,
    ITripLimitLayer,
)
from trtllm_ext.embedded.layers.einsum import IEinsumLayer
from trtllm_ext.embedded.layers.movement import (
    IConcatenationLayer,
    IConstantLayer,
    IFillLayer,
    IGatherLayer,
    IShapeLayer,
    IShuffleLayer,
    ISliceLayer,
)
from trtllm_ext.embedded.layers.plugin import IPluginV3Layer
from trtllm_ext.embedded.layers.quantization import IDequantizeLayer, IQuantizeLayer
from trtllm_ext.embedded.layers.resize import IResizeLayer
from trtllm_ext.embedded.layers.scaling import IParametricReLULayer, IScaleLayer
from trtllm_ext.embedded.layers.selection import (
    ICumulativeLayer,
    INonZeroLayer,
    IOneHotLayer,
    IReverseSequenceLayer,
    IScatterLayer,
    ISqueezeLayer,
    ITopKLayer,
    IUnsqueezeLayer,
)
from trtllm_ext.embedded.layers.spatial import (
    IConvolutionLayer,
    IDeconvolutionLayer,
    IPaddingLayer,
    IPoolingLayer,
)

__all__ = [
    "IActivationLayer",
    "IAssertionLayer",
    "ICastLayer",
    "IConcatenationLayer",
    "IConditionLayer",
    "IConstantLayer",
    "IConvolutionLayer",
    "ICumulativeLayer",
    "IDeconvolutionLayer",
    "IDequantizeLayer",
    "IDistCollectiveLayer",
    "IEinsumLayer",
    "IElementWiseLayer",
    "IFillLayer",
    "IGatherLayer",
    "IIdentityLayer",
    "IIfConditionalBoundaryLayer",
    "IIfConditionalInputLayer",
    "IIfConditionalOutputLayer",
    "IIteratorLayer",
    "ILayer",
    "ILoopBoundaryLayer",
    "ILoopOutputLayer",
    "IMatrixMultiplyLayer",
    "INonZeroLayer",
    "INormalizationLayer",
    "IOneHotLayer",
    "IPaddingLayer",
    "IParametricReLULayer",
    "IPluginV3Layer",
    "IPoolingLayer",
    "IQuantizeLayer",
    "IRecurrenceLayer",
    "IReduceLayer",
    "IResizeLayer",
    "IReverseSequenceLayer",
    "IScaleLayer",
    "IScatterLayer",
    "ISelectLayer",
    "IShapeLayer",
    "IShuffleLayer",
    "ISliceLayer",
    "ISoftMaxLayer",
    "ISqueezeLayer",
    "ITopKLayer",
    "ITripLimitLayer",
    "IUnaryLayer",
    "IUnsqueezeLayer",
]
