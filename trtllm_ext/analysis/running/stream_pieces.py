"""The stream of any number of tokens, piece by piece, in memory that does not grow with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.running import StreamRun, check_taps, labelled, needed_taps, stream_of
from trtllm_ext.checkpoint import ModelConfig
from trtllm_ext.errors import ConfigError, InputError

# What the taps of a piece may take, in float32.
PIECE_BYTES = 64 << 20


@dataclass(frozen=True)
class Piece:
    """Some of the input's tokens. first: the number of its first token. number: of the piece; total: of all pieces."""

    run: StreamRun
    first: int
    number: int
    total: int


class StreamPieces:
    """Input for a tapped engine, to be gone through as often as it takes: `for piece in pieces.passes("step")`.

    A single piece is kept and run once; several are run anew in every pass, which gives the same numbers.
    inputs, sentences, tokenizer: as `stream_of` takes them. labels: of all tokens, where the input does not tell them;
        left out where there is another number of them. piece_bytes: of the taps of a piece.
    Raises as `stream_of` does; the engine's taps are checked here.
    """

    def __init__(
        self,
        engine_dir: str | os.PathLike[str],
        inputs: Mapping[str, Any] | None = None,
        *,
        sentences: Sequence[str] | None = None,
        tokenizer: str | None = None,
        labels: Sequence[str] | None = None,
        piece_bytes: int = PIECE_BYTES,
    ) -> None:
        if (inputs is None) == (sentences is None):
            raise ConfigError(
                "give either inputs (arrays by name) or sentences (texts), not both and not neither."
            )
        self.engine_dir, self.tokenizer, self._labels = engine_dir, tokenizer, labels
        self.config: ModelConfig = check_taps(engine_dir)
        self._inputs = None if inputs is None else {name: np.asarray(value) for name, value in inputs.items()}
        self._sentences = None if sentences is None else list(sentences)
        stream = (self._inputs or {}).get("hidden_states")
        if labels is not None and stream is not None and (not stream.ndim or len(stream) != len(labels)):
            self._labels = None  # a piece's share of too many would pass for its own
        connections = self.config.contract.feed_forward.residual.hyper_connections
        streams = 1 if connections is None else connections.num_streams
        row = 4 * self.config.hidden_size * streams * len(needed_taps(self.config))
        self._rows = max(1, piece_bytes // row)
        self._only: Piece | None = None

    def passes(self, step: str, progress: Progress | None = None) -> Iterator[Piece]:
        """All pieces, in order. step: what the pass is for, told with the share of the input that is done."""
        tell = progress or silent
        cuts = list(self._cuts())
        first = 0
        for number, cut in enumerate(cuts):
            piece = self._only
            if piece is None:
                alive = partial(_alive, tell, step, number, len(cuts))
                run = stream_of(self.engine_dir, **cut, tokenizer=self.tokenizer, progress=alive)
                run = labelled(run, self._labels and self._labels[first : first + run.num_tokens])
                piece = Piece(run, first, number, len(cuts))
                if len(cuts) == 1:
                    self._only = piece
            tell(step, number, len(cuts))
            yield piece
            first += piece.run.num_tokens
            del piece
        tell(step, len(cuts), len(cuts))

    def _cuts(self) -> Iterator[dict[str, Any]]:
        """Arguments of `stream_of` of every piece."""
        if self._sentences is not None:
            for group in _groups(self._sentences, self.config.max_position_embeddings or 512, self._rows):
                yield {"sentences": group}
            return
        assert self._inputs is not None
        name = "input_ids" if self.config.contract.embedding is not None else "hidden_states"
        leading = self._inputs.get(name)
        if leading is None or leading.ndim < 1 or not len(leading):
            raise InputError(
                f"the input {name!r} is missing or empty; given: {', '.join(self._inputs) or 'nothing'}. Give it as "
                "`trtllm-ext inspect` shows the engine's inputs."
            )
        width = leading.shape[1] if name == "input_ids" and leading.ndim > 1 else 1
        count = max(1, self._rows // max(width, 1))
        for begin in range(0, len(leading), count):
            yield {"inputs": {key: _rows(key, value, begin, count) for key, value in self._inputs.items()}}


def _alive(tell: Progress, step: str, number: int, total: int, _: str, __: int, ___: int, /) -> None:
    """The engine's own progress, as that of a piece."""
    tell(step, number, total)


def _groups(sentences: list[str], longest: int, rows: int) -> Iterator[list[str]]:
    """Sentences in their order, in groups of at most `rows` tokens: no sentence has more tokens than bytes and two."""
    group: list[str] = []
    held = 0
    for sentence in sentences:
        size = min(longest, len(sentence.encode()) + 2)
        if group and held + size > rows:
            yield group
            group, held = [], 0
        group.append(sentence)
        held += size
    yield group


def _rows(name: str, value: np.ndarray[Any, Any], begin: int, count: int) -> np.ndarray[Any, Any]:
    """Some rows of an input; attention_output has a layer's number before them."""
    if name == "attention_output" and value.ndim == 3:
        return value[:, begin : begin + count]
    return value[begin : begin + count]
