"""What every operation does to its operands first: scalars become constants, ranks and types are made to agree."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.backend import tensorrt
from trtllm_ext.errors import GraphError
from trtllm_ext.graph.dtypes import Scalar, index_dtype, is_int, scalar_array
from trtllm_ext.graph.functional.constants import constant
from trtllm_ext.graph.layer import add_layer, fail, output
from trtllm_ext.graph.parameter import Parameter
from trtllm_ext.graph.tensor import Tensor
from trtllm_ext.runtime.dtypes import dtype_name, readable


def require_tensor(value: Any, name: str) -> Tensor:
    """`value` if it is a Tensor, else a GraphError that names the argument."""
    if not isinstance(value, Tensor):
        hint = (
            "a Parameter's tensor is its .value"
            if isinstance(value, Parameter)
            else "see functional.constant"
        )
        raise fail(f"{name} is a {type(value).__name__} ({value!r}); it takes a Tensor ({hint})")
    return value


def require_bool(value: Any, name: str) -> Tensor:
    """`value` if it is a Tensor of bool, else a GraphError that names the argument."""
    tensor = require_tensor(value, name)
    if dtype_name(tensor.dtype) != "BOOL":
        raise fail(f"{name} is {readable(tensor.dtype)}; it takes bool: compare first, as in x > 0")
    return tensor


def is_scalar(value: Any) -> bool:
    """Whether a value is a Python or numpy number or bool."""
    return isinstance(value, bool | int | float | np.number | np.bool_)


def constant_to_tensor_(input: Tensor | Scalar, dtype: Any = None, to_array: bool = True) -> Tensor:
    """A scalar as a constant Tensor, of shape (1,), or () with to_array=False; a Tensor as it is.

    dtype: of the constant; without it int32 for an int, float32 for a float, bool for a bool.
    Raises GraphError when the value does not fit the dtype.
    """
    if isinstance(input, Tensor):
        return input
    return scalar_like(input, dtype, (1,) if to_array else ())


def constants_to_tensors_(*inputs: Tensor | Scalar) -> tuple[Tensor, ...]:
    """Scalars become constants of the first Tensor's type; int32 beside int64 is cast to int64.

    Nothing else is promoted: float types that differ stay as they are.
    """
    first = next((value for value in inputs if isinstance(value, Tensor)), None)
    return upcast_ints(
        [constant_to_tensor_(value, None if first is None else first.dtype) for value in inputs]
    )


def upcast_ints(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """int32 tensors cast to int64 when there are both kinds."""
    names = {dtype_name(tensor.dtype) for tensor in tensors}
    if names != {"INT32", "INT64"}:
        return tuple(tensors)
    int64 = tensorrt().DataType.INT64
    return tuple(
        tensor if dtype_name(tensor.dtype) == "INT64" else output(add_layer("add_cast", tensor, int64), int64)
        for tensor in tensors
    )


def require_same_dtype(*tensors: Tensor) -> None:
    """Raises GraphError with the types when they differ: nothing is promoted silently."""
    names = [readable(tensor.dtype) for tensor in tensors]
    if len(set(names)) > 1:
        raise fail(
            f"the operands have different types, {' and '.join(names)}; nothing is promoted silently: cast one of them "
            f"with functional.cast(x, {names[0]!r})"
        )


def broadcast_helper(left: Tensor | Scalar, right: Tensor | Scalar) -> tuple[Tensor, Tensor]:
    """Both operands as Tensors of one type and one rank.

    A scalar becomes a constant of the other operand's type (of int32, float32 or bool when both are scalars); the
    shorter shape gets 1s in front; int32 beside int64 is cast. Raises GraphError when the types differ otherwise.
    """
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        left, right = upcast_ints((left, right))
    elif isinstance(left, Tensor):
        right = scalar_like(right, left.dtype, (1,) * left.rank())
    elif isinstance(right, Tensor):
        left = scalar_like(left, right.dtype, (1,) * right.rank())
    else:
        floats = isinstance(left, float | np.floating) or isinstance(right, float | np.floating)
        dtype = tensorrt().DataType.FLOAT if floats else None
        left, right = scalar_like(left, dtype, ()), scalar_like(right, dtype, ())
    require_same_dtype(left, right)
    rank = max(left.rank(), right.rank())
    return expand_rank(left, rank), expand_rank(right, rank)


def expand_rank(input: Tensor, rank: int) -> Tensor:
    """`input` with 1s in front until it has `rank` dimensions.

    Cost: no layer for a tensor of that rank; for a constant another constant on the same memory; else one shuffle.
    """
    missing = rank - input.rank()
    if missing <= 0:
        return input
    if input.host_array is not None:
        return constant(input.host_array.reshape((1,) * missing + input.shape))
    from trtllm_ext.graph.functional.shaping import expand_dims

    return expand_dims(input, list(range(missing)))


def int_vector(values: Sequence[int], dtype: Any = None) -> Tensor:
    """A rank-1 constant of sizes or indices, of the type that shapes have."""
    from trtllm_ext.graph.dtypes import trt_dtype_to_np

    return constant(
        np.array(list(values), dtype=trt_dtype_to_np(dtype if dtype is not None else index_dtype()))
    )


def dim_resolve_negative(dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the front. Raises GraphError for one that is out of range or named twice."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    resolved = []
    for each in dims:
        if not -ndim <= each < ndim:
            raise fail(f"dimension {each} is out of range for {ndim} dimensions ({-ndim} to {ndim - 1})")
        resolved.append(each % ndim)
    if len(set(resolved)) != len(resolved):
        raise fail(f"dimensions {dims} name one twice")
    return tuple(resolved)


def one_dim(dim: int, ndim: int) -> int:
    """A single dimension counted from the front. Raises GraphError when it is out of range."""
    return dim_resolve_negative(dim, ndim)[0]


def dim_to_trt_axes(dim: int | Sequence[int]) -> int:
    """Dimensions (not negative) as TensorRT's bit mask."""
    mask = 0
    for each in (dim,) if isinstance(dim, int) else dim:
        mask |= 1 << each
    return mask


def require_index_dtype(tensor: Tensor, name: str) -> None:
    """Raises GraphError unless the tensor is int32 or int64."""
    if not is_int(tensor.dtype):
        raise fail(f"{name} is {readable(tensor.dtype)}; it takes int32 or int64")


def scalar_like(value: Any, dtype: Any, shape: tuple[int, ...]) -> Tensor:
    """A constant of `shape` filled with a number; dtype None is int32, float32 or bool by the number's kind."""
    if not is_scalar(value):
        raise fail(
            f"an operand is a {type(value).__name__} ({value!r}); it takes a Tensor or a number (see "
            "functional.constant)"
        )
    if isinstance(value, np.generic):
        value = value.item()
    if dtype is None:
        members = tensorrt().DataType
        dtype = {bool: members.BOOL, int: members.INT32, float: members.FLOAT}[type(value)]
    try:
        array = scalar_array(value, dtype, shape)
    except GraphError as error:
        raise fail(str(error)) from None
    return constant(array)
