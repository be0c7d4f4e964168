"""Images and sequences made larger or smaller."""

import math
from collections.abc import Sequence
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.tensor import Tensor

# Modes of torch by the number of dimensions that they take; None is any of 3 to 5.
_RANKS = {"nearest": None, "nearest-exact": None, "linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool = False,
    recompute_scale_factor: bool = False,
    antialias: bool = False,
) -> Tensor:
    """`input` (batch, channels, spatial dimensions) resized, as in torch.nn.functional.interpolate.

    size: of the spatial dimensions, which are 1 to 3; or scale_factor, by which they are multiplied, rounded down.
    mode: nearest, nearest-exact, linear (3 dimensions), bilinear, bicubic (4) or trilinear (5).
    align_corners: for linear and trilinear; of no effect in the other modes, as in TensorRT-LLM.
    recompute_scale_factor: of no effect; the scale is always that of the sizes.
    The batch may vary; spatial dimensions may not. antialias=True is refused.
    Raises GraphError when the arguments do not fit the shape or each other.
    """
    dims = require_tensor(input, "input").shape
    if not 3 <= len(dims) <= 5 or -1 in dims[2:]:
        raise fail(f"interpolate takes 3 to 5 dimensions, the spatial ones of known size, got {dims}")
    if mode not in _RANKS:
        raise fail(f"interpolate does not know mode={mode!r}; it is one of {', '.join(_RANKS)}")
    if _RANKS[mode] not in (None, len(dims)):
        raise fail(f"mode={mode!r} takes {_RANKS[mode]} dimensions, got the shape {dims}")
    if antialias:
        raise fail("interpolate with antialias=True is not available; blur the input with conv2d first")
    sizes = _spatial_sizes(dims[2:], size, scale_factor)
    layer = add_layer("add_resize", input)
    if -1 in dims:
        layer.scales = [1.0, 1.0, *(new / old for new, old in zip(sizes, dims[2:], strict=True))]
    else:
        layer.shape = (*dims[:2], *sizes)
    _set_mode(layer, mode, align_corners)
    return output(layer, input.dtype)


def _spatial_sizes(dims: tuple[int, ...], size: Any, scale_factor: Any) -> list[int]:
    if (size is None) == (scale_factor is None):
        raise fail(f"interpolate takes size or scale_factor, got size={size} and scale_factor={scale_factor}")
    given = size if scale_factor is None else scale_factor
    items = list(given) if isinstance(given, Sequence) else [given] * len(dims)
    if len(items) != len(dims):
        raise fail(f"interpolate takes {len(dims)} sizes or factors for {dims}, got {items}")
    sizes = items if scale_factor is None else [math.floor(f * d) for f, d in zip(items, dims, strict=True)]
    if min(sizes) < 1:
        raise fail(f"interpolate from {dims} to {sizes}: sizes are 1 or more")
    return [int(each) for each in sizes]


def _set_mode(layer: Any, mode: str, align_corners: bool) -> None:
    trt = tensorrt()
    places = trt.ResizeCoordinateTransformation
    if mode == "nearest":
        layer.resize_mode = trt.InterpolationMode.NEAREST
        layer.coordinate_transformation = places.ASYMMETRIC
        layer.nearest_rounding = trt.ResizeRoundMode.FLOOR
    elif mode == "nearest-exact":
        layer.resize_mode = trt.InterpolationMode.NEAREST
        layer.coordinate_transformation = places.HALF_PIXEL
        layer.nearest_rounding = trt.ResizeRoundMode.HALF_UP
    else:
        layer.resize_mode = trt.InterpolationMode.CUBIC if mode == "bicubic" else trt.InterpolationMode.LINEAR
        aligned = align_corners and mode in ("linear", "trilinear")
        layer.coordinate_transformation = places.ALIGN_CORNERS if aligned else places.HALF_PIXEL
