"""The rotary embeddings of ChatGLM and CogVLM, from a table inside the network and positions as an input."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.graph.dtypes import trt_dtype_to_np
from trtllm_ext.graph.functional.constants import cast, constant
from trtllm_ext.graph.functional.embedding import embedding
from trtllm_ext.graph.functional.enumerations import PositionEmbeddingType
from trtllm_ext.graph.functional.joining import concat
from trtllm_ext.graph.functional.rotation import rotate
from trtllm_ext.graph.functional.shaping import unsqueeze, view
from trtllm_ext.graph.functional.slicing import split, unbind
from trtllm_ext.graph.layer import fail
from trtllm_ext.graph.tensor import Tensor

Array = np.ndarray[Any, Any]


def rotate_chatglm(
    qkv: Tensor | Sequence[Tensor],
    positions: Tensor,
    heads: int,
    head_size: int,
    table: Array,
    packed: bool,
) -> Tensor | list[Tensor]:
    """Queries and keys turned by a token's place in the text (first half of a head) and in its block (second half).

    qkv: [query, key, value], each (batch, seq, heads * head_size), or one Tensor (batch, seq, 3 * heads * head_size)
        in which each head has its query, key and value side by side. With packed, (tokens, ...).
    positions: integers (batch, 2, seq), or (2, tokens) with packed.
    table: `sin|cos` (positions, head_size / 2), used in the type of qkv.
    Returns what qkv was: three Tensors, or one, in which all queries come first, then all keys, then all values.
    """
    query, key, value = _heads(qkv, heads, head_size, packed, beside_head=True)
    dtype = query.dtype
    lookup = embedding(_batched(positions, packed), constant(table.astype(trt_dtype_to_np(dtype))))
    tables = []
    for place in unbind(lookup, 1):
        sin, cos = (unsqueeze(half, 2) for half in split(place, head_size // 4, -1))
        tables.append((concat([cos, cos], 3), concat([sin, sin], 3)))
    (cos0, sin0), (cos1, sin1) = tables
    kind = PositionEmbeddingType.chatglm
    turned = [rotate(each, (cos0, cos1, sin0, sin1), kind) for each in (query, key)]
    return _as_given(qkv, [*turned, value], packed)


def rotate_cogvlm(
    qkv: Tensor | Sequence[Tensor],
    positions: Tensor,
    heads: int,
    head_size: int,
    table: Array,
    packed: bool,
) -> Tensor | list[Tensor]:
    """Queries and keys turned as in GPT-NeoX, in float32.

    qkv: as for `rotate_chatglm`, but one Tensor holds all queries, then all keys, then all values.
    positions: integers (batch, seq), or (tokens,) with packed. table: `sin|cos` (positions, head_size), float32.
    """
    query, key, value = _heads(qkv, heads, head_size, packed, beside_head=False)
    lookup = embedding(_batched(positions, packed), constant(table))
    sin, cos = split(lookup, head_size // 2, -1)
    turned = [
        cast(rotate(cast(each, "float32"), (cos, sin), PositionEmbeddingType.rope_gpt_neox), each.dtype)
        for each in (query, key)
    ]
    return _as_given(qkv, [*turned, value], packed)


def _batched(positions: Tensor, packed: bool) -> Tensor:
    return unsqueeze(positions, 0) if packed else positions


def _heads(
    qkv: Tensor | Sequence[Tensor], heads: int, head_size: int, packed: bool, beside_head: bool
) -> list[Tensor]:
    """Query, key and value, each (batch, seq, heads, head_size); batch is 1 when the tokens are packed."""
    front = [1, -1] if packed else [0, 0]
    if not isinstance(qkv, Tensor):
        if len(qkv) != 3:
            raise fail(f"qkv is one Tensor or [query, key, value], got {len(qkv)} items")
        return [view(each, [*front, heads, head_size]) for each in qkv]
    sizes = [heads, 3, head_size] if beside_head else [3, heads, head_size]
    return list(unbind(view(qkv, [*front, *sizes]), 3 if beside_head else 2))


def _as_given(qkv: Tensor | Sequence[Tensor], parts: list[Tensor], packed: bool) -> Tensor | list[Tensor]:
    if isinstance(qkv, Tensor):
        return view(concat(parts, 2), [-1 if packed else 0, *([] if packed else [0]), qkv.shape[-1]])
    return [
        view(part, [-1 if packed else 0, *([] if packed else [0]), each.shape[-1]])
        for part, each in zip(parts, qkv, strict=True)
    ]
