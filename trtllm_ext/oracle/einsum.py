"""Einstein sums, and assertions."""

from __future__ import annotations

import numpy as np

from trtllm_ext.oracle.call import Call
from trtllm_ext.oracle.values import Array


def einsum(call: Call) -> Array:
    """The product of all inputs, each spread over the letters that others have, summed over those not in the output."""
    operands = call.present()
    call.same_kind(*operands)
    equation = str(call.attributes("IEinsumLayer").equation).replace(" ", "")
    left, arrow, output = equation.partition("->")
    letters = sorted(set(left) - {","})
    if not arrow:
        output = "".join(letter for letter in letters if left.count(letter) == 1)
    terms = left.split(",")
    if len(terms) != len(operands) or any(len(set(term)) != len(term) for term in (*terms, output)):
        call.refuse(f"equation {equation!r} does not fit {len(operands)} inputs, or names a dimension twice")
    product = np.ones((1,) * len(letters), operands[0].dtype)
    for term, operand in zip(terms, operands, strict=True):
        if len(term) != operand.ndim:
            call.refuse(f"{term!r} does not name the dimensions of a tensor of shape {operand.shape}")
        ordered = np.transpose(operand, [term.index(letter) for letter in sorted(term)])
        lengths = iter(ordered.shape)
        try:
            product = product * ordered.reshape([next(lengths) if one in term else 1 for one in letters])
        except ValueError:
            call.refuse(
                f"dimensions of one letter differ in {[one.shape for one in operands]} of {equation!r}"
            )
    summed = np.add.reduce(
        product, axis=tuple(at for at, one in enumerate(letters) if one not in output), dtype=product.dtype
    )
    kept = [one for one in letters if one in output]
    return np.asarray(np.transpose(summed, [kept.index(letter) for letter in output]))


def assertion(call: Call) -> tuple[Array, ...]:
    """Nothing; refused, with the message, where an element of the condition is false."""
    condition = call.input(0)
    if condition.dtype != np.bool_ or not bool(np.all(condition)):
        call.refuse(f"assertion failed: {call.attributes('IAssertionLayer').message}")
    return ()
