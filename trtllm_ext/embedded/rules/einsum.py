"""The rule of Einstein sums."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from trtllm_ext.embedded.rules.elementwise import broadcast
from trtllm_ext.embedded.rules.known import FLOATS, INDICES, Known, OperandError, RuleError
from trtllm_ext.embedded.rules.movement import MAX_RANK
from trtllm_ext.embedded.rules.typing import common_type, require_type


def terms_of(equation: str) -> tuple[list[str], str]:
    """The letters of each input and of the output.

    Without an arrow the output has the letters that are there once, in alphabetical order. Raises RuleError for what
    is no equation.
    """
    text = equation.replace(" ", "")
    if "." in text:
        raise RuleError(f"equation {equation!r:.80} has an ellipsis; name each dimension by a letter instead")
    if not re.fullmatch("[a-z]*(,[a-z]*)*(->[a-z]*)?", text):
        raise RuleError(
            f"equation {equation!r:.80} cannot be read; write lower-case letters for each input, separated by commas, "
            "then '->' and the letters of the output"
        )
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if not arrow:
        output = "".join(sorted(letter for letter in set(left) - {","} if left.count(letter) == 1))
    for term in (*terms, output):
        if len(set(term)) != len(term):
            raise RuleError(
                f"equation {equation!r:.80} names a dimension twice in {term!r:.30}; diagonals are not supported"
            )
    missing = sorted(set(output) - set(left))
    if missing:
        raise RuleError(f"equation {equation!r:.80} has {missing[0]!r} in the output and in no input")
    return terms, output


def einsum(
    attributes: Mapping[str, Any], inputs: Sequence[Known | None], strongly_typed: bool
) -> list[Known]:
    """The output's letters, each as long as the inputs' dimensions of that letter, broadcast where one is 1."""
    operands = [one for one in inputs if one is not None]
    terms, output = terms_of(attributes["equation"])
    if len(terms) != len(inputs) or len(operands) != len(inputs):
        raise OperandError(
            f"equation {attributes['equation']!r:.80} is of {len(terms)} inputs, but there are {len(operands)}"
        )
    dtype = common_type(operands, strongly_typed, "an Einstein sum")
    require_type(dtype, FLOATS | INDICES, "an Einstein sum")
    lengths: dict[str, int] = {}
    for number, (term, operand) in enumerate(zip(terms, operands, strict=True)):
        if len(term) != len(operand.shape):
            raise OperandError(
                f"input {number} has shape {operand.shape}, but {term!r:.30} names {len(term)} dimensions"
            )
        for letter, length in zip(term, operand.shape, strict=True):
            lengths[letter] = _together(letter, lengths.get(letter, 1), length)
    if len(output) > MAX_RANK:
        raise OperandError(f"the output would have {len(output)} dimensions; a tensor has at most {MAX_RANK}")
    return [Known(dtype, tuple(lengths[letter] for letter in output))]


def _together(letter: str, one: int, other: int) -> int:
    try:
        [length] = broadcast([(one,), (other,)])
    except RuleError:
        raise OperandError(
            f"dimension {letter!r} is {one} long in one input and {other} in another"
        ) from None
    return length
