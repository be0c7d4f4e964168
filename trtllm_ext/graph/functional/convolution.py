"""Convolutions and pooling over one, two or three spatial dimensions."""

from collections.abc import Sequence
from typing import Any

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.constants import constant, weights_of
from trtllm_ext.graph.functional.operands import require_same_dtype, require_tensor
from trtllm_ext.graph.functional.shaping import squeeze, unsqueeze, view
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.tensor import Tensor

Sizes = int | Sequence[int]


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """input (batch, channels, length) with weight (out, channels / groups, kernel), as in torch.

    weight: may have a last dimension of size one, which is how TensorRT-LLM stores it. bias: (out,).
    Raises GraphError when shapes or types do not fit.
    """
    if require_tensor(weight, "weight").rank() == 3:
        weight = _with_last_one(weight)
    if weight.rank() != 4 or weight.shape[3] != 1 or require_tensor(input, "input").rank() != 3:
        raise fail(
            "conv1d takes input (batch, channels, length) and weight (out, channels / groups, kernel), got "
            f"{input.shape} and {weight.shape}"
        )
    layer = _convolution(unsqueeze(input, 3), weight, bias, weight.shape[0], "add_convolution_nd", groups)
    layer.stride_nd = (stride, 1)
    layer.padding_nd = (padding, 0)
    layer.dilation_nd = (dilation, 1)
    return squeeze(output(layer, input.dtype), 3)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1, 1),
    padding: Sizes = (0, 0),
    dilation: Sizes = (1, 1),
    groups: int = 1,
    pre_padding: Sequence[int] | None = None,
    post_padding: Sequence[int] | None = None,
) -> Tensor:
    """input (batch, channels, height, width) with weight (out, channels / groups, kernel, kernel), as in torch.

    input: may lack the batch, and the result then does too. bias: (out,).
    pre_padding, post_padding: in place of `padding` in front of and behind each spatial dimension.
    Raises GraphError when shapes or types do not fit.
    """
    batched = _batched(input, weight, 2, "conv2d")
    layer = _convolution(batched, weight, bias, weight.shape[0], "add_convolution_nd", groups)
    layer.stride_nd, layer.dilation_nd = _spatial(stride, 2), _spatial(dilation, 2)
    layer.padding_nd = _spatial(padding, 2)
    if pre_padding:
        layer.pre_padding = _spatial(pre_padding, 2)
    if post_padding:
        layer.post_padding = _spatial(post_padding, 2)
    return _unbatched(output(layer, input.dtype), input)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1, 1, 1),
    padding: Sizes = (0, 0, 0),
    dilation: Sizes = (1, 1, 1),
    groups: int = 1,
) -> Tensor:
    """input (batch, channels, depth, height, width) with weight (out, channels / groups, kernel, kernel, kernel).

    input: may lack the batch; the result has a batch of one then, as in TensorRT-LLM. bias: (out,).
    Raises GraphError when shapes or types do not fit.
    """
    batched = _batched(input, weight, 3, "conv3d")
    layer = _convolution(batched, weight, bias, weight.shape[0], "add_convolution_nd", groups)
    layer.stride_nd, layer.dilation_nd = _spatial(stride, 3), _spatial(dilation, 3)
    layer.padding_nd = _spatial(padding, 3)
    return output(layer, input.dtype)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sizes = (1, 1),
    padding: Sizes = (0, 0),
    output_padding: Sizes = (0, 0),
    dilation: Sizes = (1, 1),
    groups: int = 1,
) -> Tensor:
    """input (batch, channels, height, width) with weight (channels, out / groups, kernel, kernel), as in torch.

    input: may lack the batch, and the result then does too. bias: (out,).
    output_padding, dilation: as in torch; TensorRT-LLM takes no notice of them.
    Raises GraphError when shapes or types do not fit, or for an output_padding beyond padding.
    """
    batched = _batched(input, weight, 2, "conv_transpose2d")
    before, extra = _spatial(padding, 2), _spatial(output_padding, 2)
    if any(more > edge for more, edge in zip(extra, before, strict=True)):
        raise fail(f"output_padding {extra} is more than padding {before}, which TensorRT has no form for")
    layer = _convolution(batched, weight, bias, weight.shape[1] * groups, "add_deconvolution_nd", groups)
    layer.stride_nd = _spatial(stride, 2)
    layer.padding_nd = before
    if any(extra):
        layer.post_padding = tuple(edge - more for more, edge in zip(extra, before, strict=True))
    if _spatial(dilation, 2) != (1, 1):
        layer.dilation_nd = _spatial(dilation, 2)
    return _unbatched(output(layer, input.dtype), input)


def avg_pool2d(
    input: Tensor,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The means of windows of input (batch, channels, height, width), which may lack the batch.

    stride: kernel_size by default. padding, count_include_pad: as in torch; TensorRT-LLM takes no notice of them.
    ceil_mode: also windows that are partly outside; one that begins in the margin behind counts too, unlike in torch.
    """
    rank = require_tensor(input, "input").rank()
    if rank not in (3, 4):
        raise fail(f"avg_pool2d takes (batch, channels, height, width), got the shape {input.shape}")
    trt = tensorrt()
    window = _spatial(kernel_size, 2)
    batched = unsqueeze(input, 0) if rank == 3 else input
    layer = add_layer("add_pooling_nd", batched, trt.PoolingType.AVERAGE, trt.DimsHW(window))
    layer.stride_nd = window if stride is None else _spatial(stride, 2)
    layer.padding_nd = _spatial(padding, 2)
    layer.average_count_excludes_padding = not count_include_pad
    if ceil_mode:
        layer.padding_mode = trt.PaddingMode.EXPLICIT_ROUND_UP
    return _unbatched(output(layer, input.dtype), input)


def _convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, maps: int, method: str, groups: int
) -> Any:
    """The layer; weights of constants are its own, others become its inputs."""
    trt = tensorrt()
    kernel = trt.Dims(list(weight.shape[2:]))
    operands = [weight] if bias is None else [weight, bias]
    require_same_dtype(input, *(require_tensor(each, "bias") for each in operands))
    if bias is not None and bias.shape != (maps,):
        raise fail(f"bias has the shape {bias.shape}; the convolution has {maps} outputs")
    own = [_weights_of(each) for each in operands]
    layer = add_layer(method, input, maps, kernel, own[0], *own[1:])
    layer.num_groups = groups
    network = default_net()
    network.name_layer(layer)
    for index, (tensor, role) in enumerate(zip(operands, ("kernel", "bias"), strict=False), 1):
        if tensor.host_array is None:
            layer.set_input(index, tensor.trt_tensor)
        else:
            network.host_weights[f"{layer.name}.{role}"] = tensor.host_array
    return layer


def _weights_of(tensor: Tensor) -> Any:
    trt = tensorrt()
    array = tensor.host_array
    return trt.Weights() if array is None else weights_of(trt, tensor.dtype, array)


def _with_last_one(weight: Tensor) -> Tensor:
    array = weight.host_array
    return view(weight, [*weight.shape, 1]) if array is None else constant(array.reshape(*array.shape, 1))


def _batched(input: Tensor, weight: Tensor, spatial: int, name: str) -> Tensor:
    rank = require_tensor(input, "input").rank()
    if rank not in (spatial + 1, spatial + 2) or require_tensor(weight, "weight").rank() != spatial + 2:
        raise fail(
            f"{name} takes an input of {spatial + 2} dimensions (or {spatial + 1}, without batch) and a weight of "
            f"{spatial + 2}, got {input.shape} and {weight.shape}"
        )
    if -1 in weight.shape:
        raise fail(f"{name} takes a weight of known shape, got {weight.shape}")
    return unsqueeze(input, 0) if rank == spatial + 1 else input


def _unbatched(result: Tensor, input: Tensor) -> Tensor:
    return squeeze(result, 0) if result.rank() > input.rank() else result


def _spatial(value: Sizes, count: int) -> tuple[int, ...]:
    sizes = (value,) * count if isinstance(value, int) else tuple(int(each) for each in value)
    if len(sizes) != count:
        raise fail(f"a convolution over {count} dimensions takes {count} numbers, got {sizes}")
    return sizes
