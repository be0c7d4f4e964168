"""The values of all iterations of a loop as one tensor."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from trtllm_ext.lowering.element_types import BF16, FLOAT, INT64
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.movement import transpose
from trtllm_ext.lowering.values import Symbol, Value

_BEFORE_THE_FIRST = -(2**63)


@dataclass(frozen=True)
class Collected:
    """What one loop output collects.

    given: the value inside the loop; scan: the values of all iterations, (iterations, *shape of given); length: how
    many the output has, 0-d; is_exact: whether there are certainly as many iterations; imagined: emits the shape of
    `given`, to be asked only where nothing else tells it.
    """

    given: Value
    scan: Value
    length: Value
    is_exact: bool
    imagined: Callable[[], Value]


def concatenated(
    emitter: Emitter, one: Collected, axis: int, *, reverse: bool, outside: Iterable[Value]
) -> Value:
    """The values along the new dimension `axis`; after an early end the rest is zeros.

    outside: values by which lengths can be told if there was no iteration at all.
    """
    scan = _of_full_rank(emitter, one, outside)
    if reverse:
        # Not a Gather of a Range that counts down: ONNX Runtime makes an empty Slice of that (seen with 1.31).
        ends = [emitter.ints([-1]), emitter.ints([_BEFORE_THE_FIRST]), emitter.ints([0]), emitter.ints([-1])]
        scan = emitter.node("Slice", [scan, *ends], scan.onnx_type, scan.shape)
    if not one.is_exact:
        scan = _of_length(emitter, scan, emitter.cast(one.length, INT64))
    rank = one.given.ndim
    result = transpose(emitter, scan, (*range(1, axis + 1), 0, *range(axis + 1, rank + 1)))
    length = one.length.elements[0] if one.length.elements else None
    lengths = (*one.given.lengths[:axis], length, *one.given.lengths[axis:])
    shape = tuple(known if isinstance(known, int) else -1 for known in lengths)
    symbols = tuple(known if isinstance(known, Symbol) else None for known in lengths)
    return replace(result, shape=shape, symbols=symbols)


def _of_full_rank(emitter: Emitter, one: Collected, outside: Iterable[Value]) -> Value:
    """The collected values with lengths that are right even if there was no iteration.

    Without an iteration ONNX Runtime takes lengths that the model does not fix for 0.
    """
    if one.given.is_static:
        return one.scan
    known: dict[Symbol, tuple[Value, int]] = {}
    for value in outside:
        for axis, symbol in enumerate(value.symbols):
            if symbol is not None:
                known.setdefault(symbol, (value, axis))
    parts = [_length(emitter, one.scan, 0)]
    if all(isinstance(length, int) or length in known for length in one.given.lengths):
        for length in one.given.lengths:
            if isinstance(length, int):
                parts.append(emitter.ints([length]))
            elif length is not None:
                parts.append(_length(emitter, *known[length]))
    else:
        parts.append(one.imagined())
    wanted = emitter.node("Concat", parts, INT64, (one.scan.ndim,), axis=0)
    return emitter.node("Reshape", [one.scan, wanted], one.scan.onnx_type, one.scan.shape, allowzero=1)


def _length(emitter: Emitter, value: Value, axis: int) -> Value:
    return emitter.node("Shape", [value], INT64, (1,), start=axis, end=axis + 1)


def _of_length(emitter: Emitter, scan: Value, length: Value) -> Value:
    """The collected values with as many in front as `length` says: zeros behind them, or without the last ones."""
    if scan.onnx_type == BF16:
        # Expand has no kernel for it.
        return emitter.cast(_of_length(emitter, emitter.cast(scan, FLOAT), length), BF16)
    missing = emitter.map("Sub", length, emitter.dim_of(scan, 0))
    missing = emitter.map("Max", missing, emitter.ints(0))
    missing = emitter.node("Unsqueeze", [missing, emitter.ints([0])], INT64, (1,))
    rest = emitter.node("Shape", [scan], INT64, (scan.ndim - 1,), start=1)
    shape = emitter.node("Concat", [missing, rest], INT64, (scan.ndim,), axis=0)
    zeros = emitter.node("Expand", [emitter.scalar(0, scan.onnx_type), shape], scan.onnx_type, scan.shape)
    joined = emitter.node("Concat", [scan, zeros], scan.onnx_type, scan.shape, axis=0)
    end = emitter.node("Unsqueeze", [length, emitter.ints([0])], INT64, (1,))
    inputs = [joined, emitter.ints([0]), end, emitter.ints([0])]
    return emitter.node("Slice", inputs, scan.onnx_type, scan.shape)
