"""Convolution and deconvolution."""

from operator import add
from typing import Any

from trtllm_ext.lowering.element_types import FLOAT
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value
from trtllm_ext.lowering.weights import borrowed
from trtllm_ext.lowering.windows import windows_of, with_same_padding


@lowers("CONVOLUTION")
def convolution(layer: Layer) -> Value:
    """Correlation with a kernel, accumulated in float32."""
    api, channels = layer.api, layer.raw(0).shape[1]
    groups, maps = int(api.num_groups), int(api.num_output_maps)
    size, dilation = tuple(api.kernel_size_nd), tuple(api.dilation_nd)
    value, windows = layer.operand(0), windows_of(layer, size, dilation)
    # Zeros change no sum, so what hangs over is padding like any other.
    post = tuple(map(add, windows.post, windows.overhang))
    if windows.auto_pad != "NOTSET":
        value = with_same_padding(layer, value, windows)
    attributes = {"strides": list(windows.strides), "pads": [*windows.pre, *post]}
    return _node(layer, "Conv", value, (maps, channels // groups, *size), attributes)


@lowers("DECONVOLUTION")
def deconvolution(layer: Layer) -> Value:
    """Transposed convolution, accumulated in float32; padding trims the output."""
    api, channels = layer.api, layer.raw(0).shape[1]
    groups, maps = int(api.num_groups), int(api.num_output_maps)
    size, dilation, strides = tuple(api.kernel_size_nd), tuple(api.dilation_nd), tuple(api.stride_nd)
    pre, post = tuple(api.pre_padding), tuple(api.post_padding)
    mode: str = api.padding_mode.name
    if mode.startswith("SAME"):
        spare = [
            max(1 + step * (length - 1) - stride, 0)
            for length, step, stride in zip(size, dilation, strides, strict=True)
        ]
        less, more = tuple(one // 2 for one in spare), tuple(one - one // 2 for one in spare)
        pre, post = (less, more) if mode == "SAME_UPPER" else (more, less)
    attributes = {"strides": list(strides), "pads": [*pre, *post]}
    return _node(layer, "ConvTranspose", layer.operand(0), (channels, maps // groups, *size), attributes)


def _node(
    layer: Layer, op_type: str, value: Value, kernel_shape: tuple[int, ...], attributes: dict[str, Any]
) -> Value:
    api = layer.api
    inputs = [value, _parameter(layer, 1, api.kernel, kernel_shape, "kernel")]
    if layer.has(2) or len(api.bias):
        inputs.append(_parameter(layer, 2, api.bias, (int(api.num_output_maps),), "bias"))
    return layer.emitter.node(
        op_type,
        inputs,
        FLOAT,
        layer.output_shape,
        kernel_shape=list(api.kernel_size_nd),
        dilations=list(api.dilation_nd),
        group=int(api.num_groups),
        **attributes,
    )


def _parameter(layer: Layer, index: int, weights: Any, shape: tuple[int, ...], what: str) -> Value:
    """The kernel or the bias: an input where there is one, else the layer's own weights."""
    if layer.has(index):
        return layer.operand(index)
    return layer.as_operand(borrowed(layer, weights, shape, what))
