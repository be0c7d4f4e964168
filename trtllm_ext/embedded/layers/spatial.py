"""Views of the layers that slide a window over the last two or three dimensions, or pad them."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtllm_ext.embedded.enums import PaddingMode, PoolingType
from trtllm_ext.embedded.layers.base import Attribute, ILayer, as_dims, as_float, as_int, enum_attribute
from trtllm_ext.embedded.layers.movement import as_weights
from trtllm_ext.embedded.types import Dims, Weights


def as_optional_weights(weights: Any) -> Weights:
    """Weights, or an array of them; None is empty weights."""
    return Weights() if weights is None else as_weights(weights)


def weights_attribute(doc: str) -> Attribute[np.ndarray[Any, Any] | Weights]:
    """Weights that a layer holds itself: borrowed, read when an engine is built, given as a 1-D view."""
    return Attribute(as_optional_weights, doc, Weights.numpy)


class _Windowed(ILayer):
    """What convolution, deconvolution and pooling share."""

    __slots__ = ()
    pre_padding = Attribute[Dims](as_dims, "Padding at the start of each spatial dimension.", Dims)
    post_padding = Attribute[Dims](as_dims, "Padding at the end of each spatial dimension.", Dims)
    padding_mode = enum_attribute(
        PaddingMode, "How the output's lengths are rounded; the SAME modes replace pre- and post-padding."
    )
    stride_nd = Attribute[Dims](as_dims, "The step of the window in each spatial dimension.", Dims)

    @property
    def padding_nd(self) -> Dims:
        """Padding at both ends; where they differ, that at the start."""
        return self.pre_padding

    @padding_nd.setter
    def padding_nd(self, padding: Dims) -> None:
        self.pre_padding = padding
        self.post_padding = padding


class _WithKernel(_Windowed):
    """What convolution and deconvolution share; input 1 is the kernel and input 2 the bias where they are tensors."""

    __slots__ = ()
    num_output_maps = Attribute[int](as_int, "Channels of the output.")
    kernel_size_nd = Attribute[Dims](as_dims, "The spatial lengths of the kernel.", Dims)
    dilation_nd = Attribute[Dims](as_dims, "The distance between elements that the kernel reads.", Dims)
    num_groups = Attribute[int](
        as_int, "Groups that the channels are split into, each with kernels of its own."
    )
    bias = weights_attribute("One number for each channel of the output, or empty weights.")


class IConvolutionLayer(_WithKernel):
    """Correlation with a kernel over two or three dimensions."""

    __slots__ = ()
    kernel = weights_attribute(
        "Weights of shape (maps, channels / groups, *kernel size); empty if input 1 is the kernel."
    )


class IDeconvolutionLayer(_WithKernel):
    """Transposed convolution; padding trims the output."""

    __slots__ = ()
    kernel = weights_attribute(
        "Weights of shape (channels, maps / groups, *kernel size); empty if input 1 is the kernel."
    )


class IPoolingLayer(_Windowed):
    """Maximum or average of a window."""

    __slots__ = ()

    # Hides `ILayer.type`, as in TensorRT; `network.get_layer()` gives a view that has that.
    type = enum_attribute(PoolingType, "What is computed of a window.")
    window_size_nd = Attribute[Dims](as_dims, "The lengths of the window.", Dims)
    blend_factor = Attribute[float](
        as_float, "The share of the average in MAX_AVERAGE_BLEND; the rest is the maximum's."
    )
    average_count_excludes_padding = Attribute[bool](
        bool, "Whether an average is over the elements of the input only; else padding counts as zeros."
    )


class IPaddingLayer(ILayer):
    """Zeros around the last two dimensions; a negative number cuts off as many elements."""

    __slots__ = ()
    pre_padding_nd = Attribute[Dims](as_dims, "Elements added at the start.", Dims)
    post_padding_nd = Attribute[Dims](as_dims, "Elements added at the end.", Dims)
