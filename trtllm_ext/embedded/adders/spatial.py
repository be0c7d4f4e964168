"""add_ methods of layers over spatial dimensions: convolution, pooling, padding, scaling, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trtllm_ext.embedded.adders.base import AdderBase, MaybeTensor
from trtllm_ext.embedded.enums import (
    InterpolationMode,
    LayerType,
    PaddingMode,
    PoolingType,
    ResizeCoordinateTransformation,
    ResizeRoundMode,
    ResizeSelector,
    ScaleMode,
)
from trtllm_ext.embedded.layers.base import as_dims, as_int, member_of
from trtllm_ext.embedded.layers.movement import as_weights
from trtllm_ext.embedded.layers.resize import IResizeLayer
from trtllm_ext.embedded.layers.scaling import IParametricReLULayer, IScaleLayer
from trtllm_ext.embedded.layers.spatial import (
    IConvolutionLayer,
    IDeconvolutionLayer,
    IPaddingLayer,
    IPoolingLayer,
    as_optional_weights,
)
from trtllm_ext.embedded.types import Dims


class SpatialAdders(AdderBase):
    """Layers on tensors of shape (batch, channels, ...), with two or three spatial dimensions."""

    def add_convolution_nd(
        self,
        input: MaybeTensor,
        num_output_maps: int,
        kernel_shape: Dims | Sequence[int],
        kernel: Any,
        bias: Any = None,
    ) -> IConvolutionLayer | None:
        """Correlation of the input with `kernel` (maps, channels / groups, *kernel_shape), plus a bias per map.

        kernel, bias: Weights or numpy arrays, borrowed until the engine is built; empty if inputs 1 and 2 are set.
        """
        attributes = _kernel_attributes(num_output_maps, kernel_shape, kernel, bias)
        return self._add(IConvolutionLayer, LayerType.CONVOLUTION, attributes, (input,))

    def add_deconvolution_nd(
        self,
        input: MaybeTensor,
        num_output_maps: int,
        kernel_shape: Dims | Sequence[int],
        kernel: Any,
        bias: Any = None,
    ) -> IDeconvolutionLayer | None:
        """The transpose of a convolution with `kernel` (channels, maps / groups, *kernel_shape), plus a bias."""
        attributes = _kernel_attributes(num_output_maps, kernel_shape, kernel, bias)
        return self._add(IDeconvolutionLayer, LayerType.DECONVOLUTION, attributes, (input,))

    def add_pooling_nd(
        self, input: MaybeTensor, type: PoolingType, window_size: Dims | Sequence[int]
    ) -> IPoolingLayer | None:
        """Maximum or average of each window, with stride 1 and no padding until they are set."""
        window = as_dims(window_size)
        attributes = {
            "type": member_of(PoolingType)(type),
            "window_size_nd": window,
            "blend_factor": 0.0,
            "average_count_excludes_padding": True,
            **_window_attributes(len(window)),
        }
        return self._add(IPoolingLayer, LayerType.POOLING, attributes, (input,))

    def add_padding_nd(
        self, input: MaybeTensor, pre_padding: Dims | Sequence[int], post_padding: Dims | Sequence[int]
    ) -> IPaddingLayer | None:
        """Zeros before and behind the last two dimensions; negative numbers cut off."""
        attributes = {"pre_padding_nd": as_dims(pre_padding), "post_padding_nd": as_dims(post_padding)}
        return self._add(IPaddingLayer, LayerType.PADDING, attributes, (input,))

    def add_scale(
        self, input: MaybeTensor, mode: ScaleMode, shift: Any = None, scale: Any = None, power: Any = None
    ) -> IScaleLayer | None:
        """`(input * scale + shift) ** power`; the channels are the third dimension from last."""
        known = None if input is None else input._known()
        axis = 1 if known is None else max(len(known.shape) - 3, 0)
        return self._add_scale(input, mode, shift, scale, power, axis)

    def add_scale_nd(
        self,
        input: MaybeTensor,
        mode: ScaleMode,
        shift: Any = None,
        scale: Any = None,
        power: Any = None,
        channel_axis: int | None = None,
    ) -> IScaleLayer | None:
        """`(input * scale + shift) ** power`; elementwise weights are for the dimensions from `channel_axis` on.

        As in TensorRT, `channel_axis` has to be given. Raises TypeError if it is not.
        """
        return self._add_scale(input, mode, shift, scale, power, as_int(channel_axis))

    def _add_scale(
        self, input: MaybeTensor, mode: ScaleMode, shift: Any, scale: Any, power: Any, axis: int
    ) -> IScaleLayer | None:
        attributes = {
            "mode": member_of(ScaleMode)(mode),
            "shift": as_optional_weights(shift),
            "scale": as_optional_weights(scale),
            "power": as_optional_weights(power),
            "channel_axis": axis,
        }
        return self._add(IScaleLayer, LayerType.SCALE, attributes, (input,))

    def add_parametric_relu(self, input: MaybeTensor, slopes: MaybeTensor) -> IParametricReLULayer | None:
        """The input where it is not negative, else the input times `slopes`, which broadcast to it."""
        return self._add(IParametricReLULayer, LayerType.PARAMETRIC_RELU, {}, (input, slopes))

    def add_resize(self, input: MaybeTensor) -> IResizeLayer | None:
        """The input interpolated to the lengths of `shape`, `scales` or input 1, one of which must be set."""
        attributes = {
            "shape": None,
            "scales": None,
            "resize_mode": InterpolationMode.NEAREST,
            "coordinate_transformation": ResizeCoordinateTransformation.ASYMMETRIC,
            "selector_for_single_pixel": ResizeSelector.FORMULA,
            "nearest_rounding": ResizeRoundMode.FLOOR,
            "exclude_outside": False,
            "cubic_coeff": -0.75,
        }
        return self._add(IResizeLayer, LayerType.RESIZE, attributes, (input,))


def _kernel_attributes(
    num_output_maps: int, kernel_shape: Dims | Sequence[int], kernel: Any, bias: Any
) -> dict[str, Any]:
    size = as_dims(kernel_shape)
    return {
        "num_output_maps": as_int(num_output_maps),
        "kernel_size_nd": size,
        "dilation_nd": (1,) * len(size),
        "num_groups": 1,
        "kernel": as_weights(kernel),
        "bias": as_optional_weights(bias),
        **_window_attributes(len(size)),
    }


def _window_attributes(rank: int) -> dict[str, Any]:
    return {
        "stride_nd": (1,) * rank,
        "pre_padding": (0,) * rank,
        "post_padding": (0,) * rank,
        "padding_mode": PaddingMode.EXPLICIT_ROUND_DOWN,
    }
