"""Rules of quantize and dequantize layers.

A scale is one number for the whole tensor, a vector along `axis`, or a tensor of the input's rank that has one
number for each block along its last or last but one dimension.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import FLOATS, Known, OperandError, RuleError, may_be_equal
from trtllm_ext.embedded.rules.typing import require_type

QUANTIZED = frozenset({DataType.INT8, DataType.FP8, DataType.INT4})
# TensorRT has no blocks of INT8.
_BLOCKED = frozenset({DataType.FP8, DataType.INT4})


def quantize(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """`clamp(round(input / scale))` in `to_type`."""
    data, scale = _operands(inputs)
    require_type(data.dtype, FLOATS, "quantize")
    require_type(scale.dtype, FLOATS, "the scale (input 1) of quantize")
    to_type = _to_type(attributes, QUANTIZED, "quantize", strongly_typed)
    if strongly_typed and scale.dtype not in (DataType.FLOAT, data.dtype):
        raise OperandError(
            f"the scale (input 1) is {scale.dtype.name}, but the input is {data.dtype.name}; in a strongly typed "
            "network a scale is FLOAT, or of the input's type. Insert a cast."
        )
    _check_zero_point(inputs, scale, to_type, "the output")
    _check_scale(data.shape, scale.shape, attributes["axis"], to_type)
    return [Known(to_type, data.shape)]


def dequantize(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """`input * scale` in `to_type`."""
    data, scale = _operands(inputs)
    require_type(data.dtype, QUANTIZED, "dequantize")
    require_type(scale.dtype, FLOATS, "the scale (input 1) of dequantize")
    to_type = _to_type(attributes, FLOATS, "dequantize", strongly_typed)
    if strongly_typed and scale.dtype not in (DataType.FLOAT, to_type):
        raise RuleError(
            f"the scale (input 1) is {scale.dtype.name}, but the output is {to_type.name}; in a strongly typed "
            "network a scale is FLOAT, or of the output's type. Insert a cast, or set to_type."
        )
    _check_zero_point(inputs, scale, data.dtype, "the input")
    _check_scale(data.shape, scale.shape, attributes["axis"], data.dtype)
    return [Known(to_type, data.shape)]


def _operands(inputs: Sequence[Known | None]) -> tuple[Known, Known]:
    data, scale = inputs[0], inputs[1]
    if data is None or scale is None:
        raise OperandError(f"input {0 if data is None else 1} is missing")
    if data.shape == ():
        raise OperandError("the input must not be a scalar; reshape it to shape (1,)")
    return data, scale


def _to_type(
    attributes: Mapping[str, Any], allowed: frozenset[DataType], what: str, strongly_typed: bool
) -> DataType:
    to_type: DataType = attributes["to_type"]
    if to_type not in allowed:
        names = ", ".join(sorted(one.name for one in allowed))
        raise RuleError(f"{what} to {to_type.name} is not supported; to_type may be {names}")
    wanted = attributes.get("output_types") or (None,)
    if not strongly_typed and wanted[0] not in (None, to_type):
        raise RuleError(
            f"output type {wanted[0].name} was set on a {what} layer to {to_type.name}; the two must be the same"
        )
    return to_type


def _check_zero_point(inputs: Sequence[Known | None], scale: Known, dtype: DataType, whose: str) -> None:
    zero_point = inputs[2] if len(inputs) > 2 else None
    if zero_point is None:
        return
    if zero_point.dtype != dtype:
        raise RuleError(
            f"the zero point (input 2) is {zero_point.dtype.name}; it must be {dtype.name}, the type of {whose}"
        )
    if not may_be_equal(zero_point.shape, scale.shape):
        raise RuleError(
            f"the zero point (input 2) has shape {zero_point.shape}; it must be that of the scale, {scale.shape}"
        )


def _check_scale(shape: tuple[int, ...], scale: tuple[int, ...], axis: int, dtype: DataType) -> None:
    """Raises RuleError unless the scale is one number, or goes along `axis` or in blocks over `shape`."""
    if all(length == 1 for length in scale):
        return
    if len(scale) == 1:
        if not 0 <= axis < len(shape):
            raise RuleError(
                f"the scale has {scale[0]} elements, so axis must say which dimension they go along: 0 to "
                f"{len(shape) - 1}, but it is {axis}"
            )
        if -1 not in (scale[0], shape[axis]) and scale[0] != shape[axis]:
            raise RuleError(
                f"the scale has {scale[0]} elements, but dimension {axis} of the input of shape {shape} has length "
                f"{shape[axis]}"
            )
        return
    if len(scale) != len(shape):
        raise RuleError(
            f"a scale of shape {scale} does not fit an input of shape {shape}: it must be one number, a vector along "
            "axis, or of the input's rank with blocks along one dimension"
        )
    if dtype not in _BLOCKED:
        raise RuleError(
            f"a scale of shape {scale} means blocks, which {dtype.name} does not have; only FP8 and INT4. Give one "
            "number, or a vector along axis."
        )
    _check_blocks(shape, scale)


def _check_blocks(shape: tuple[int, ...], scale: tuple[int, ...]) -> None:
    different = [axis for axis in range(len(shape)) if shape[axis] != scale[axis]]
    last_two = range(len(shape) - 2, len(shape))
    for axis in different:
        if axis not in last_two and -1 not in (shape[axis], scale[axis]):
            break
        if axis in last_two and -1 in (shape[axis], scale[axis]):
            raise RuleError(
                f"dimension {axis} of the scale of shape {scale} and of the input of shape {shape} must be known when "
                "the network is built, to tell blocks from single elements"
            )
    blocked = [axis for axis in different if axis in last_two]
    fits = (
        all(axis in last_two or -1 in (shape[axis], scale[axis]) for axis in different) and len(blocked) <= 1
    )
    if not fits or any(scale[axis] == 0 or shape[axis] % scale[axis] for axis in blocked):
        raise RuleError(
            f"a scale of shape {scale} does not fit an input of shape {shape}: all lengths must be equal but one, "
            "of the last two, which must divide the input's"
        )
