"""Einstein sums.

ONNX Runtime's Einsum ends the process, by a division by zero, for some tensors without elements (seen with 1.31). So
where a tensor may be empty the sum is made in a branch, and zeros in the other.
"""

from collections.abc import Sequence

import numpy as np
from onnx import numpy_helper

from trtllm_ext.lowering.element_types import BOOL, INT64, numpy_type_of
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Value


@lowers("EINSUM")
def einsum(layer: Layer) -> Value:
    """Sums of products, in float32 for floats and exactly, wrapping round, for integers."""
    emitter, operands = layer.emitter, layer.operands()
    lengths = [length for operand in operands for length in operand.lengths]
    if 0 in lengths and all(operand.is_static for operand in operands):
        return _zeros(layer, emitter.ints(layer.output_shape), operands[0].onnx_type)
    if not any(layer.network.may_be_zero(length) for length in lengths):
        return _sums(layer, operands)
    has_elements = _has_elements(emitter, operands)
    shape = _output_lengths(layer, operands)
    emitter.open_graph(repeats=False)
    sums = emitter.close_graph([_sums(layer, operands)])
    emitter.open_graph(repeats=False)
    zeros = emitter.close_graph([_zeros(layer, shape, operands[0].onnx_type)])
    output = [(operands[0].onnx_type, layer.output_shape)]
    [value] = emitter.node_with_graphs("If", [has_elements], output, then_branch=sums, else_branch=zeros)
    return value


def _sums(layer: Layer, operands: Sequence[Value]) -> Value:
    return layer.emitter.node(
        "Einsum", operands, operands[0].onnx_type, layer.output_shape, equation=str(layer.api.equation)
    )


def _zeros(layer: Layer, shape: Value, onnx_type: int) -> Value:
    zero = numpy_helper.from_array(np.zeros(1, numpy_type_of(onnx_type)))
    return layer.emitter.node("ConstantOfShape", [shape], onnx_type, layer.output_shape, value=zero)


def _has_elements(emitter: Emitter, operands: Sequence[Value]) -> Value:
    """Whether no operand is empty."""
    sizes = [emitter.node("Size", [operand], INT64, ()) for operand in operands]
    return emitter.map("Greater", emitter.map("Min", *sizes), emitter.ints(0), to=BOOL)


def _output_lengths(layer: Layer, operands: Sequence[Value]) -> Value:
    """The shape of the output, 1-D int64."""
    emitter = layer.emitter
    terms, output = terms_of(str(layer.api.equation))
    parts = []
    for letter in output:
        lengths = [
            emitter.dim_of(operand, term.index(letter))
            for term, operand in zip(terms, operands, strict=True)
            if letter in term
        ]
        # Of lengths that are equal or 1 the longest counts, unless it is 0.
        some = emitter.map("Min", *lengths, emitter.ints(1))
        parts.append(unsqueeze(emitter, emitter.map("Mul", emitter.map("Max", *lengths), some), 0))
    if not parts:
        return emitter.ints([])
    return emitter.node("Concat", parts, INT64, (len(parts),), axis=0)


def terms_of(equation: str) -> tuple[list[str], str]:
    """The letters of each input and of the output; without an arrow, that has those that are there once."""
    left, arrow, output = equation.replace(" ", "").partition("->")
    if not arrow:
        output = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    return left.split(","), output
