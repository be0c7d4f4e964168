"""Transpositions and reshapes written as one expression of named dimensions: "b s (h d) -> b h s d"."""

import math
import re
from collections.abc import Sequence

from trtllm_ext.graph.functional.elementwise import floordiv, mul
from trtllm_ext.graph.functional.inspection import shape
from trtllm_ext.graph.functional.joining import stack
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.functional.shaping import permute, reshape_to
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor

# A dimension is made of the axes in its group; a group without axes is a dimension of size one.
Groups = list[list[str]]

_TOKEN = re.compile(r"[A-Za-z_]\w*|\d+|[()]")


def rearrange(inputs: Tensor | Sequence[Tensor], expression: str, **kwargs: int) -> Tensor:
    """The elements of `inputs` in the order and the shape that `expression` says, as in einops.rearrange.

    inputs: a Tensor, or several that are stacked in a new first dimension.
    expression: "dimensions -> dimensions". A name is an axis, found on both sides once; names in parentheses make up
        one dimension, the last changing fastest; 1 is a dimension of size one.
    kwargs: sizes of axes. In each dimension one may be left out.
    Raises GraphError for an expression that is not of that form, or that does not fit the shape.

        rearrange(x, "b (h h1) (w w1) c -> b h w (c h1 w1)", h1=2, w1=2)
    """
    input = require_tensor(inputs, "inputs") if isinstance(inputs, Tensor) else stack(inputs)
    left, arrow, right = expression.partition("->")
    if not arrow:
        raise fail(f"the expression {expression!r} has no '->'")
    source, target = _groups(left, expression), _groups(right, expression)
    order, wanted = ([name for group in side for name in group] for side in (source, target))
    if sorted(order) != sorted(wanted) or len(set(order)) != len(order):
        raise fail(f"in {expression!r} each name stands once on each side")
    unknown = sorted(kwargs.keys() - set(order))
    if unknown:
        raise fail(f"the expression {expression!r} has no axis {unknown[0]!r}")
    axes = _axis_sizes(input, source, kwargs, expression)
    result = reshape_to(input, [axes[name] for name in order])
    if wanted != order:
        result = permute(result, [order.index(name) for name in wanted])
    return reshape_to(result, [_product([axes[name] for name in group]) for group in target])


def _groups(side: str, expression: str) -> Groups:
    if _TOKEN.sub("", side).strip():
        raise fail(
            f"the expression {expression!r} holds {_TOKEN.sub('', side).strip()!r}; it is made of names, 1s and "
            "parentheses"
        )
    groups: Groups = []
    inside = False
    for token in _TOKEN.findall(side):
        if token in "()":
            if inside == (token == "("):
                raise fail(f"the parentheses in {expression!r} do not match")
            inside = not inside
            if inside:
                groups.append([])
        elif token.isdigit():
            if token != "1":
                raise fail(f"the expression {expression!r} has the number {token}; give it a name and a size")
            if not inside:
                groups.append([])
        elif inside:
            groups[-1].append(token)
        else:
            groups.append([token])
    if inside:
        raise fail(f"the parentheses in {expression!r} do not match")
    return groups


def _axis_sizes(
    input: Tensor, source: Groups, given: dict[str, int], expression: str
) -> dict[str, int | Tensor]:
    """The size of each axis: a number, or a rank-0 Tensor where it varies."""
    if len(source) != input.rank():
        raise fail(f"{expression!r} has {len(source)} dimensions on the left, the input {input.shape}")
    axes: dict[str, int | Tensor] = dict(given)
    for dim, group in enumerate(source):
        size = input.shape[dim]
        known = math.prod(given[name] for name in group if name in given)
        open_ones = [name for name in group if name not in given]
        if len(open_ones) > 1:
            raise fail(
                f"in {expression!r} the sizes of {' and '.join(open_ones)} are not known; give one of them"
            )
        if size != -1 and (known < 1 or size % known or (not open_ones and size != known)):
            raise fail(f"in {expression!r} dimension {dim} of {input.shape} is not made of the sizes {given}")
        if open_ones and size == -1:
            axes[open_ones[0]] = shape(input, dim) if known == 1 else floordiv(shape(input, dim), known)
        elif open_ones:
            axes[open_ones[0]] = size // known
    return axes


def _product(sizes: list[int | Tensor]) -> int | Tensor:
    result: int | Tensor = math.prod(size for size in sizes if isinstance(size, int))
    for size in sizes:
        if isinstance(size, Tensor):
            result = size if isinstance(result, int) and result == 1 else mul(size, result)
    return result
