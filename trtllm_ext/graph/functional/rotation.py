"""Queries and keys turned by their positions."""

from collections.abc import Sequence

from trtllm_ext.backend import tensorrt
from trtllm_ext.graph.functional.elementwise import add, mul
from trtllm_ext.graph.functional.enumerations import PositionEmbeddingType
from trtllm_ext.graph.functional.joining import concat, stack
from trtllm_ext.graph.functional.operands import require_tensor
from trtllm_ext.graph.functional.repetition import repeat_interleave
from trtllm_ext.graph.functional.shaping import expand_dims, flatten
from trtllm_ext.graph.functional.slicing import chunk, slice_axis
from trtllm_ext.graph.functional.unary import unary
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor


def rotate_every_two(tensor: Tensor) -> Tensor:
    """(-b, a) for each pair (a, b) of neighbours in the last of four dimensions. Raises GraphError if it is odd."""
    half = _half_of_last(tensor)
    evens = slice_axis(tensor, -1, 0, half, 2)
    odds = slice_axis(tensor, -1, 1, half, 2)
    return flatten(stack([_negative(odds), evens], 4), 3, 4)


def rotate_half(tensor: Tensor) -> Tensor:
    """(-b, a) of the halves (a, b) of the last of four dimensions. Raises GraphError if it is odd."""
    _half_of_last(tensor)
    first, second = chunk(tensor, 2, -1)
    return concat([_negative(second), first], 3)


def rotate(
    tensor: Tensor, position_embedding: Sequence[Tensor], pos_emb_type: PositionEmbeddingType
) -> Tensor:
    """x * cos + rotated(x) * sin.

    tensor: (batch, seq, heads, head_size).
    pos_emb_type: rope_gptj pairs neighbours; rope_gpt_neox and long_rope pair the halves of a head; chatglm turns each
        half of a head by itself.
    position_embedding: (cos, sin), each (batch, seq, head_size / 2) or broadcasting to it; for chatglm
        (cos0, cos1, sin0, sin1) of the two halves, each (batch, seq, 1, head_size / 2).
    Raises GraphError for another kind, another number of tables, or types that differ.
    """
    kind = PositionEmbeddingType(pos_emb_type)
    count = 4 if kind is PositionEmbeddingType.chatglm else 2
    if kind.name not in ("rope_gptj", "rope_gpt_neox", "long_rope", "chatglm"):
        raise fail(
            f"position embedding type {kind} is not a rotary one: rope_gptj, rope_gpt_neox, long_rope, chatglm"
        )
    if len(position_embedding) != count:
        raise fail(f"{kind} takes {count} tables of cosines and sines, got {len(position_embedding)}")
    _half_of_last(tensor)
    if kind is PositionEmbeddingType.chatglm:
        cos0, cos1, sin0, sin1 = position_embedding
        first, second = chunk(tensor, 2, -1)
        return concat([_turned(first, cos0, sin0), _turned(second, cos1, sin1)], 3)
    cos, sin = (expand_dims(table, 2) for table in position_embedding)
    if kind is PositionEmbeddingType.rope_gptj:
        cos, sin = repeat_interleave(cos, 2, 3), repeat_interleave(sin, 2, 3)
        return add(mul(tensor, cos), mul(rotate_every_two(tensor), sin))
    return _turned(tensor, concat([cos, cos], 3), concat([sin, sin], 3))


def _turned(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return add(mul(tensor, cos), mul(rotate_half(tensor), sin))


def _negative(tensor: Tensor) -> Tensor:
    return unary(tensor, tensorrt().UnaryOperation.NEG)


def _half_of_last(tensor: Tensor) -> int:
    sizes = require_tensor(tensor, "tensor").shape
    if len(sizes) != 4 or sizes[3] < 0 or sizes[3] % 2:
        raise fail(
            f"a rotation takes (batch, seq, heads, head_size) with an even, known head_size, got {sizes}"
        )
    return sizes[3] // 2
