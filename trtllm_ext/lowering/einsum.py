"""Einstein sums.

What ONNX Runtime's Einsum does not do right (seen with 1.31): it ends the process, by a division by zero, for some
tensors without elements; and of lengths of one letter the first counts for the inferred shape, though it may be the
1 that is broadcast. So where a tensor may be empty, or two lengths may differ, the sum is made in a branch, whose shape
nobody infers, and zeros in the other. A length of 1 beside another length is left out.
"""

from collections.abc import Sequence

import numpy as np
from onnx import numpy_helper

from trtllm_ext.lowering.element_types import BOOL, INT64, numpy_type_of
from trtllm_ext.lowering.emitter import Emitter
from trtllm_ext.lowering.layer import Layer
from trtllm_ext.lowering.movement import squeeze, unsqueeze
from trtllm_ext.lowering.registry import lowers
from trtllm_ext.lowering.values import Element, Symbol, Value


@lowers("EINSUM")
def einsum(layer: Layer) -> Value:
    """Sums of products, in float32 for floats and exactly, wrapping round, for integers."""
    emitter = layer.emitter
    terms, output = terms_of(str(layer.api.equation))
    operands = _without_units(emitter, layer.operands(), terms)
    equation = f"{','.join(terms)}->{output}"
    lengths = [length for operand in operands for length in operand.lengths]
    if 0 in lengths and all(operand.is_static for operand in operands):
        return _zeros(layer, emitter.ints(layer.output_shape), operands[0].onnx_type)
    if not any(layer.network.may_be_zero(length) for length in lengths) and not _may_differ(
        operands, terms, output
    ):
        return _sums(layer, operands, equation)
    has_elements = _has_elements(emitter, operands)
    shape = _output_lengths(emitter, operands, terms, output)
    emitter.open_graph(repeats=False)
    sums = emitter.close_graph([_sums(layer, operands, equation)])
    emitter.open_graph(repeats=False)
    zeros = emitter.close_graph([_zeros(layer, shape, operands[0].onnx_type)])
    result = [(operands[0].onnx_type, layer.output_shape)]
    [value] = emitter.node_with_graphs("If", [has_elements], result, then_branch=sums, else_branch=zeros)
    return value


def _without_units(emitter: Emitter, operands: Sequence[Value], terms: list[str]) -> list[Value]:
    """The operands without lengths of 1 that another has a length for; their letters leave `terms`."""
    slim = []
    for number, operand in enumerate(operands):
        others = "".join(terms[:number] + terms[number + 1 :])
        for axis in reversed(range(operand.ndim)):
            letter = terms[number][axis]
            if operand.shape[axis] == 1 and letter in others:
                operand = squeeze(emitter, operand, axis)
                terms[number] = terms[number].replace(letter, "")
        slim.append(operand)
    return slim


def _may_differ(operands: Sequence[Value], terms: Sequence[str], output: str) -> bool:
    """Whether lengths of one letter of the output are not known to be the same."""
    found: dict[str, set[Element]] = {letter: set() for letter in output}
    for operand, term in zip(operands, terms, strict=True):
        for letter, length in zip(term, operand.lengths, strict=True):
            if letter in found:
                # Nothing is known of None, not even that it is like another None.
                found[letter].add(Symbol(operand.name, len(found[letter])) if length is None else length)
    return any(len(lengths) > 1 for lengths in found.values())


def _sums(layer: Layer, operands: Sequence[Value], equation: str) -> Value:
    return layer.emitter.node(
        "Einsum", operands, operands[0].onnx_type, layer.output_shape, equation=equation
    )


def _zeros(layer: Layer, shape: Value, onnx_type: int) -> Value:
    zero = numpy_helper.from_array(np.zeros(1, numpy_type_of(onnx_type)))
    return layer.emitter.node("ConstantOfShape", [shape], onnx_type, layer.output_shape, value=zero)


def _has_elements(emitter: Emitter, operands: Sequence[Value]) -> Value:
    """Whether no operand is empty."""
    sizes = [emitter.node("Size", [operand], INT64, ()) for operand in operands]
    return emitter.map("Greater", emitter.map("Min", *sizes), emitter.ints(0), to=BOOL)


def _output_lengths(emitter: Emitter, operands: Sequence[Value], terms: Sequence[str], output: str) -> Value:
    """The shape of the output, 1-D int64."""
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
