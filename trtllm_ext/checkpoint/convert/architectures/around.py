"""How one describes what stands around an architecture's feed-forward sublayers: all that reads or writes the stream.

Names of what is outside the layers may hold '{base}', what stands before the last word of the layers' prefix ('model.'
of 'model.layers'), and '{above}', the same one word less ('vit.' of 'vit.encoder.layer'). Where there are several names
the first that the source has counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

# The fields of a config.json, of the stack.
Fields = Mapping[str, Any]
# What part of the rows of one matrix is q, k and v: called with the config and the number of rows.
Split = Callable[[Fields, int], Mapping[str, tuple[range, ...]]]
Factor = Callable[[Fields], float]


def one(fields: Fields) -> float:
    """No factor."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class AttentionNames:
    """One attention sublayer, named within its layer, without '.weight' and '.bias'.

    reads: role -> matrix that reads the stream. fused: one matrix that holds them all, as `split` tells.
    writes: the matrix whose product is added. transposed: matrices are stored as (in_features, out_features).
    others: matrices that read another stream: cross-attention's k and v.
    norm: of what it reads, or of what it writes ('branch'), or of the sum ('post'), where the feed-forward has its own.
    post_norm: of what it writes, in 'sandwich'. gate: of what it writes, whole name.
    optional: not every model of the architecture has it.
    """

    reads: Mapping[str, str]
    writes: str
    norm: tuple[str, ...]
    name: str = "attention"
    fused: str | None = None
    split: Split | None = None
    transposed: bool = False
    others: tuple[str, ...] = ()
    post_norm: str | None = None
    gate: str | None = None
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Table:
    """What is written before the first layer: a table of vectors, (rows, hidden) or one vector, under whole names.

    form: 'rows'; 'matrix' for one that is stored as (hidden, in_features, ...), such as an image patch's.
    scale: a factor of the vectors. optional: not every model has it.
    computed: where no name is there the vectors are computed instead, and nothing can be folded into them.
    """

    role: str
    names: tuple[str, ...]
    form: str = "rows"
    scale: Factor = one
    optional: bool = True
    computed: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamNames:
    """All that reads or writes the stream beside the feed-forward sublayers.

    attention: in order. tables: of the embedding. embedding_norm: of their sum; final_norm: of the last stream.
    heads: matrices that read the final stream, without '.weight'. tied: a class with a head whose source has none uses
        the first table. logits_scale: a factor of the tied or stored head. head_remark: what follows it.
    """

    attention: tuple[AttentionNames, ...]
    tables: tuple[Table, ...]
    embedding_norm: tuple[str, ...] = ()
    final_norm: tuple[str, ...] = ()
    heads: tuple[str, ...] = ("lm_head", "score")
    tied: bool = True
    logits_scale: Factor = one
    head_remark: str | None = None


def field(fields: Fields, *names: str, default: Any = None) -> Any:
    """The first of the fields that is there and not null."""
    return next((fields[name] for name in names if fields.get(name) is not None), default)


def thirds(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    """q, then k, then v."""
    size = rows // 3
    return {role: (range(i * size, (i + 1) * size),) for i, role in enumerate("qkv")}


def by_head(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    """Of each head q, then k, then v."""
    return in_groups(field(fields, "num_attention_heads", "n_head", "num_heads"), 1, rows)


def in_groups(groups: int, queries: int, rows: int) -> Mapping[str, tuple[range, ...]]:
    """Of each group `queries` heads' q, then one head's k, then its v."""
    size = rows // (groups * (queries + 2))
    starts = [group * (queries + 2) * size for group in range(groups)]
    return {
        "q": tuple(range(start, start + queries * size) for start in starts),
        "k": tuple(range(start + queries * size, start + (queries + 1) * size) for start in starts),
        "v": tuple(range(start + (queries + 1) * size, start + (queries + 2) * size) for start in starts),
    }


def queries_first(fields: Fields, rows: int) -> Mapping[str, tuple[range, ...]]:
    """All heads' q, then k and v of fewer."""
    heads = field(fields, "num_attention_heads")
    size = field(fields, "head_dim", default=field(fields, "hidden_size") // heads)
    height = heads * size
    left = (rows - height) // 2
    return {
        "q": (range(height),),
        "k": (range(height, height + left),),
        "v": (range(height + left, rows),),
    }


def root_of(name: str) -> Factor:
    """The square root of a field, as Gemma's embedding has it."""
    return lambda fields: float(fields[name]) ** 0.5


def value_of(name: str, default: float, *, inverse: bool = False) -> Factor:
    """A field, or what divides."""

    def factor(fields: Fields) -> float:
        value = float(field(fields, name, default=default))
        return 1 / value if inverse else value

    return factor


def root_if(flag: str, name: str, default: bool) -> Factor:
    """The square root of a field where a flag is set, as fairseq's embeddings have it."""
    return lambda fields: float(fields[name]) ** 0.5 if field(fields, flag, default=default) else 1.0
