"""Batches without a matrix, and batches of matrices without elements.

ONNX Runtime (seen with 1.31) does not broadcast a batch length of 1, or none, to 0. It takes an empty batch where
both operands have the 0, and on the left of a single matrix if the left is not turned. Where nothing is summed it
forgets batches that only the right operand has, and writes but the first matrix of a batch if an operand is turned.
"""

from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.values import Value

_INT64_MAX = 2**63 - 1


def may_broadcast_to_none(layer: Layer, a: Value, b: Value) -> bool:
    """Whether a batch of one of the operands of a product may be stretched to no matrix at all."""
    batches = a.lengths[:-2], b.lengths[:-2]
    if batches[0] == batches[1] and None not in batches[0]:
        return False
    return any(layer.network.may_be_zero(length) for batch in batches for length in batch)


def cut_like(layer: Layer, value: Value, other: Value) -> Value:
    """`value` with a 0 in each batch dimension in which `other` has it."""
    emitter, given = layer.emitter, value.lengths
    for axis, wanted in enumerate(other.lengths[:-2]):
        if not layer.network.may_be_zero(wanted) or (given[axis] == wanted and wanted is not None):
            continue
        # All of it, or none.
        count = unsqueeze(emitter, emitter.dim_of(other, axis), 0)
        end = emitter.map("Mul", emitter.map("Min", count, emitter.ints([1])), emitter.ints([_INT64_MAX]))
        shape = (*value.shape[:axis], -1, *value.shape[axis + 1 :])
        inputs = [value, emitter.ints([0]), end, emitter.ints([axis])]
        value = emitter.node("Slice", inputs, value.onnx_type, shape)
    return value


def may_sum_nothing(layer: Layer, a: Value, b: Value, summed: tuple[int, int]) -> bool:
    """Whether a batch of matrices may be sums of no product at all.

    summed: the axes of `a` and of `b` that are summed over.
    """
    over = a.lengths[summed[0]], b.lengths[summed[1]]
    if not all(layer.network.may_be_zero(length) for length in over):
        return False
    batch = (*a.shape[:-2], *b.shape[:-2])
    if all(length == 1 for length in batch):
        return False
    straight = summed == (a.ndim - 1, b.ndim - 2) and not any(map(layer.emitter.is_transposed, (a, b)))
    batches = a.lengths[:-2], b.lengths[:-2]
    return not straight or batches[0] != batches[1] or None in batches[0]


def one_longer(emitter: Emitter, value: Value, axis: int) -> Value:
    """`value` with one zero more at the end of an axis."""
    pads = [0] * value.ndim + [int(other == axis) for other in range(value.ndim)]
    length = value.shape[axis] + 1 if value.shape[axis] >= 0 else -1
    shape = (*value.shape[:axis], length, *value.shape[axis + 1 :])
    return emitter.node("Pad", [value, emitter.ints(pads)], value.onnx_type, shape)
