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
from trtllm_ext.embedded.layers.base import ILayer
from trtllm_ext.embedded.layers.movement import (
    IConcatenationLayer,
    IConstantLayer,
    IFillLayer,
    IGatherLayer,
    IShapeLayer,
    IShuffleLayer,
    ISliceLayer,
)

__all__ = [
    "IActivationLayer",
    "ICastLayer",
    "IConcatenationLayer",
    "IConstantLayer",
    "IElementWiseLayer",
    "IFillLayer",
    "IGatherLayer",
    "IIdentityLayer",
    "ILayer",
    "IMatrixMultiplyLayer",
    "INormalizationLayer",
    "IReduceLayer",
    "ISelectLayer",
    "IShapeLayer",
    "IShuffleLayer",
    "ISliceLayer",
    "ISoftMaxLayer",
    "IUnaryLayer",
]
