"""What writes the residual stream of a model and what reads it: matrices by name, in the order of execution.

A reader computes W norm(x) + b of the stream x, a writer adds scale * gate * norm(W y + b) to it. `read_stream_map`
finds them in a checkpoint directory and in a Hugging Face folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from trtllm_ext.analysis.stream_map.stored import Matrix, StoredWeights, Vector
from trtllm_ext.checkpoint.contract import NormContract, ResidualContract

__all__ = ["Matrix", "Norm", "Part", "Reader", "StreamMap", "Vector", "Writer"]

Kind = Literal["embedding", "attention", "mlp", "final_norm", "head", "pooler"]


@dataclass(frozen=True)
class Norm:
    """A norm with its weights. gain: (hidden,), weight_offset added; None without a weight. shift: its bias."""

    contract: NormContract
    gain: Vector | None
    shift: Vector | None


@dataclass(frozen=True)
class Reader:
    """A matrix (out_features, hidden) that is multiplied by the stream, or by its norm.

    role: 'q', 'k', 'v', 'fc', 'gate', 'router', 'head' ...; an expert's has its number, 'fc[3]'.
    norm, gain, shift: of the norm before it (see Norm); a final norm is that of the readers behind it.
    bias: of the matrix. scale: a factor of what it gives (1 / Granite's logits_scaling).
    """

    matrix: Matrix
    role: str
    bias: Vector | None = None
    norm: NormContract | None = None
    gain: Vector | None = None
    shift: Vector | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Writer:
    """A matrix (hidden, in_features) whose product is added to the stream: a table of embeddings, transposed, as well.

    role: 'dense', 'proj', 'vocab', 'position' ...; an expert's has its number, 'proj[3]'.
    norm, gain, shift: of the norm on the branch ('branch', 'sandwich'). gate: a learned factor, (hidden,) or (1,), as
    it is used. scale: a fixed one (Granite's residual_multiplier, Gemma's square root of the hidden size).
    """

    matrix: Matrix
    role: str
    bias: Vector | None = None
    norm: NormContract | None = None
    gain: Vector | None = None
    shift: Vector | None = None
    gate: Vector | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Part:
    """The embedding, a sublayer, or what stands behind the last one.

    name: 'transformer.layers.3.mlp'. layer: its number, None outside the layers.
    residual: how it joins the stream; None outside the layers.
    norm: what the stream itself passes at the end of the part: a 'post' norm, an embedding's, the final one (which the
        readers behind it have as theirs).
    obstacle: why what it reads or writes is not one linear map of the stream, as the end of a sentence; None if it is.
    remarks: what lies between its matrices that is not linear, where one should know.
    """

    name: str
    layer: int | None
    kind: Kind
    residual: ResidualContract | None = None
    readers: tuple[Reader, ...] = ()
    writers: tuple[Writer, ...] = ()
    norm: Norm | None = None
    obstacle: str | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class StreamMap:
    """The parts of a model in order of execution; nothing is loaded until a matrix is.

    source: the directory. architecture: for people. weights: its files' weights, which the matrices' pieces name.
    missing: parts of the model that are not described here, with the reason: what is said then holds for `parts` alone.
    left_out: names of the source's weights that have an axis of the hidden size and are in no part, with the reason.
    """

    source: Path
    architecture: str
    hidden_size: int
    num_layers: int
    parts: tuple[Part, ...]
    weights: StoredWeights = field(repr=False)
    missing: tuple[str, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def readers(self) -> Iterator[tuple[Part, Reader]]:
        return ((part, reader) for part in self.parts for reader in part.readers)

    def writers(self) -> Iterator[tuple[Part, Writer]]:
        return ((part, writer) for part in self.parts for writer in part.writers)
