"""Rules of layers that sum along dimensions: reduce, softmax, normalization, matrix multiply."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType, MatrixOperation, ReduceOperation
from trtllm_ext.embedded.rules.elementwise import broadcast
from trtllm_ext.embedded.rules.known import (
    FLOATS,
    INDICES,
    NUMBERS,
    Known,
    OperandError,
    RuleError,
    can_hold,
    fit,
    known_with,
)
from trtllm_ext.embedded.rules.typing import common_type, require_type


def axes_of_mask(mask: int, rank: int) -> tuple[int, ...]:
    """The dimensions whose bits are set. Raises RuleError if there is none, or one the tensor lacks."""
    axes = tuple(axis for axis in range(mask.bit_length()) if mask >> axis & 1)
    if mask <= 0 or axes[-1] >= rank:
        raise RuleError(
            f"axes {mask:#x} must have at least one bit set, and none beyond bit {rank - 1} for a tensor of rank "
            f"{rank}"
        )
    return axes


def reduce(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Sum, product, maximum, minimum or mean over the dimensions in the bit mask `axes`."""
    [known] = inputs
    op: ReduceOperation = attributes["op"]
    if op == ReduceOperation.NONE:
        raise RuleError(
            "ReduceOperation.NONE is for collectives only; a reduce layer takes SUM, PROD, MAX, MIN or AVG"
        )
    require_type(known.dtype, NUMBERS, f"reduction {op.name}")
    axes = axes_of_mask(attributes["axes"], len(known.shape))
    kept = tuple(1 if axis in axes else length for axis, length in enumerate(known.shape))
    out = kept if attributes["keep_dims"] else tuple(kept[a] for a in range(len(kept)) if a not in axes)
    if known.value is None or known.dtype not in INDICES or not can_hold(known.dtype, kept):
        return [Known(known.dtype, out)]
    rest = [axis for axis in range(len(kept)) if axis not in axes]
    rows = known.value.transpose(*rest, *axes).reshape(math.prod(kept), -1 if known.value.size else 0)
    return [known_with(known.dtype, out, [_reduced(list(row), op, known.dtype) for row in rows])]


def _reduced(row: list[Any], op: ReduceOperation, dtype: DataType) -> Any:
    if None in row:
        return None
    if op == ReduceOperation.SUM:
        return fit(sum(row), dtype)
    if op == ReduceOperation.PROD:
        return fit(math.prod(row), dtype)
    if not row or op == ReduceOperation.AVG:
        # How a mean of integers is rounded is not documented, nor what the maximum of nothing is.
        return None
    return max(row) if op == ReduceOperation.MAX else min(row)


def softmax(attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool) -> list[Known]:
    """Softmax over the one dimension in the bit mask `axes`; default: the third from last, or 0."""
    [known] = inputs
    require_type(known.dtype, FLOATS, "softmax")
    rank = len(known.shape)
    if rank == 0:
        raise OperandError("softmax needs at least one dimension, and the input is a scalar")
    axes = axes_of_mask(softmax_axes(attributes["axes"], rank), rank)
    if len(axes) > 1:
        raise RuleError(f"softmax takes one axis, but axes {attributes['axes']:#x} names dimensions {axes}")
    return [Known(known.dtype, known.shape)]


def softmax_axes(axes: int | None, rank: int) -> int:
    """The bit mask in use, `axes` being None until it is set."""
    return 1 << max(rank - 3, 0) if axes is None else axes


def normalization(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over the dimensions in `axes`.

    Scale and bias have the input's rank, with lengths equal to the input's or 1; with groups they are
    (1, num_groups, 1, ...) and the axes are all dimensions from 2 on.
    """
    data, scale, bias = inputs
    dtype = common_type(inputs, strongly_typed, "normalization")
    require_type(dtype, FLOATS, "normalization")
    rank = len(data.shape)
    axes = axes_of_mask(attributes["axes"], rank)
    groups = attributes["num_groups"]
    expected = data.shape
    if groups != 1:
        if rank < 3 or axes != tuple(range(2, rank)):
            raise RuleError(
                f"with {groups} groups axes must be all dimensions from 2 on, but they are {axes} of shape {data.shape}"
            )
        if groups < 1 or (data.shape[1] % groups and data.shape[1] != -1):
            raise RuleError(f"{data.shape[1]} channels cannot be split into {groups} groups")
        expected = (1, groups) + (1,) * (rank - 2)
    for what, known in (("scale", scale), ("bias", bias)):
        if len(known.shape) != rank:
            raise OperandError(
                f"{what} must have the input's rank, but their shapes are {known.shape} and {data.shape}"
            )
        for axis, (have, want) in enumerate(zip(known.shape, expected, strict=True)):
            if have not in (1, -1, want) and want != -1:
                raise RuleError(
                    f"{what} of shape {known.shape} does not fit an input of shape {data.shape}: dimension {axis} "
                    f"must be 1 or {want}"
                )
    return [Known(dtype, data.shape)]


def matrix_multiply(
    attributes: Mapping[str, Any], inputs: Sequence[Known], strongly_typed: bool
) -> list[Known]:
    """Products of matrices or vectors in the last dimensions, with broadcasting over the leading ones."""
    dtype = common_type(inputs, strongly_typed, "matrix multiply")
    require_type(dtype, FLOATS, "matrix multiply")
    leading, outer, inner = [], [], []
    for number, (known, op) in enumerate(zip(inputs, (attributes["op0"], attributes["op1"]), strict=True)):
        taken = 1 if op == MatrixOperation.VECTOR else 2
        if len(known.shape) < taken:
            raise OperandError(
                f"input {number} with operation {op.name} must have at least {taken} dimensions, but its shape is "
                f"{known.shape}"
            )
        leading.append(known.shape[: len(known.shape) - taken])
        inner.append(known.shape[-1] if taken == 1 else _summed(known.shape, op, number))
        outer.append([] if taken == 1 else [_kept(known.shape, op, number)])
    if len(leading[0]) != len(leading[1]):
        raise OperandError(
            f"inputs must have the same number of leading dimensions, but their shapes are {inputs[0].shape} and "
            f"{inputs[1].shape} with operations {attributes['op0'].name} and {attributes['op1'].name}"
        )
    if -1 not in inner and inner[0] != inner[1]:
        raise RuleError(
            f"the summed dimensions differ: {inner[0]} in input 0 of shape {inputs[0].shape} "
            f"({attributes['op0'].name}), {inner[1]} in input 1 of shape {inputs[1].shape} ({attributes['op1'].name})"
        )
    return [Known(dtype, (*broadcast(leading), *outer[0], *outer[1]))]


def _summed(shape: tuple[int, ...], op: MatrixOperation, number: int) -> int:
    """The length of the summed dimension: the last of input 0 and the last but one of input 1, unless transposed."""
    last = (number == 0) != (op == MatrixOperation.TRANSPOSE)
    return shape[-1] if last else shape[-2]


def _kept(shape: tuple[int, ...], op: MatrixOperation, number: int) -> int:
    """The length of the other dimension."""
    last = (number == 0) != (op == MatrixOperation.TRANSPOSE)
    return shape[-2] if last else shape[-1]
