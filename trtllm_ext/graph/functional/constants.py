"""Constants, ranges, copies and casts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.arrays import as_array
from trtllm_ext.graph.dtypes import index_dtype, np_dtype_to_trt, to_trt_dtype, trt_dtype_to_np
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.network import default_net
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import dtype_name, readable

_LINSPACE_TYPES = ("FLOAT", "INT32", "INT64")


def constant(ndarray: Any, as_dtype: Any = None, as_shape: Sequence[int] | None = None) -> Tensor:
    """A constant.

    ndarray: a numpy array, `ml_dtypes` types included, or a torch tensor. Its memory is borrowed until the engine is
        built (the network keeps the array alive), so it must not change; only a strided array is copied.
    as_dtype, as_shape: read the same bytes as another type or shape, for packed data.
    Raises GraphError for a type that TensorRT does not have, or when as_dtype and as_shape need other than the array's
    number of bytes.
    """
    trt = tensorrt()
    array = as_array(ndarray)
    dtype = np_dtype_to_trt(array.dtype) if as_dtype is None else to_trt_dtype(as_dtype)
    shape = array.shape if as_shape is None else tuple(int(size) for size in as_shape)
    count = math.prod(shape)
    if as_dtype is not None or as_shape is not None:
        numpy = trt_dtype_to_np(dtype)
        if count * numpy.itemsize != array.nbytes:
            raise fail(
                f"a constant {readable(dtype)} {shape} has {count * numpy.itemsize} bytes, the array "
                f"({array.dtype} {array.shape}) has {array.nbytes}"
            )
        array = array.reshape(-1).view(numpy).reshape(shape)
    default_net().register_ndarray(array)
    tensor = output(add_layer("add_constant", trt.Dims(list(shape)), weights_of(trt, dtype, array)), dtype)
    tensor.host_array = default_net().host_weights[tensor.producer.name] = array
    return tensor


def weights_of(trt: Any, dtype: Any, array: Any) -> Any:
    """A contiguous array as a `trt.Weights` that borrows its memory."""
    # Only an address serves types that numpy lacks; TensorRT 8, which has none of them, takes arrays only.
    if array.dtype.isbuiltin == 1:
        return trt.Weights(array.reshape(-1))
    return trt.Weights(dtype, array.ctypes.data, array.size)


def arange(start: Tensor | int, end: Tensor | int, dtype: Any) -> Tensor:
    """The values start, start + 1, ... below end, of shape (end - start,).

    start, end: ints, or integer Tensors of one element. Of two ints a constant is made, else an IFillLayer (LINSPACE).
    dtype: of the result; a string or a DataType.
    """
    to = to_trt_dtype(dtype)
    if isinstance(start, int) and isinstance(end, int):
        return constant(np.arange(start, end).astype(trt_dtype_to_np(to)))
    trt = tensorrt()
    from trtllm_ext.graph.functional.elementwise import sub
    from trtllm_ext.graph.functional.shaping import view

    # LINSPACE knows these types only, or float32 alone (TensorRT 8.6); that counts exactly up to 2**24.
    typed = hasattr(trt.IFillLayer, "to_type")
    fill_dtype = to if typed and dtype_name(to) in _LINSPACE_TYPES else trt.DataType.FLOAT
    number = cast(view(sub(end, start), [1]), index_dtype())
    first = (
        start if isinstance(start, Tensor) else constant(np.array(start, dtype=trt_dtype_to_np(fill_dtype)))
    )
    with_dtype = (fill_dtype,) if typed else ()
    layer = add_layer("add_fill", trt.Dims([0]), trt.FillOperation.LINSPACE, *with_dtype)
    layer.set_input(0, number.trt_tensor)
    layer.set_input(1, view(cast(first, fill_dtype), []).trt_tensor)
    layer.set_input(2, constant(np.ones(1, dtype=trt_dtype_to_np(fill_dtype))).trt_tensor)
    return cast(output(layer), to)


def identity(input: Tensor) -> Tensor:
    """A copy of `input`."""
    return output(add_layer("add_identity", input), input.dtype)


def cast(input: Tensor, dtype: Any) -> Tensor:
    """`input` converted to `dtype` (a string or a DataType); `input` itself if it has that type.

    Raises TypeError when dtype is neither, GraphError for an unknown name.
    """
    to = to_trt_dtype(dtype)
    if input.dtype == to:
        return input
    return output(add_layer("add_cast", input, to), to)
