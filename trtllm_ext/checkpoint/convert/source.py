"""A source model's weights with a ledger: each is used, or dropped for a stated reason, or the source is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.convert.pieces import Piece, Shape, Weight, unused_part
from trtllm_ext.checkpoint.convert.report import DroppedWeight
from trtllm_ext.checkpoint.convert.source_files import WeightFile
from trtllm_ext.errors import CheckpointError
from trtllm_ext.suggest import did_you_mean

MAX_LISTED = 20
_FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class SourceView:
    """A piece of a source weight that exists and fits. source: its name in the source."""

    source: str
    piece: Piece
    weights: WeightFile

    @property
    def dtype(self) -> np.dtype:
        return self.weights[self.source].dtype

    def values(self) -> npt.NDArray:
        """The piece as a view, often not contiguous; it is looked up anew each time, so that nothing is held."""
        return self.piece.view(self.weights[self.source])

    def release(self) -> None:
        self.weights.release_pages(self.source)


class SourceWeights:
    """Weights by the converter's names, with a record of what became of each.

    weights: as named in the source. canonical: source name -> the converter's name for it.
    prefix: what the source puts before names like those that may be missing, for messages.
    """

    def __init__(
        self, model_dir: Path, weights: WeightFile, canonical: Mapping[str, str], prefix: str = ""
    ) -> None:
        self._model_dir = model_dir
        self._prefix = prefix
        self._weights = weights
        self._source_names: dict[str, str] = {}
        for source, name in canonical.items():
            if name in self._source_names:
                raise CheckpointError(
                    f"{model_dir}: {self._source_names[name]} and {source} are the same weight under two names."
                )
            self._source_names[name] = source
        self._open = set(self._source_names)
        self._missing: dict[str, Shape] = {}
        self._unfit: dict[str, str] = {}
        self._uses: dict[str, list[tuple[range, ...]]] = {}
        self.dropped: list[DroppedWeight] = []

    def __contains__(self, name: str) -> bool:
        return name in self._source_names

    def names(self) -> list[str]:
        return list(self._source_names)

    def source_name(self, name: str) -> str:
        return self._source_names.get(name, name)

    def shape(self, name: str) -> Shape:
        """The shape that a weight has in the source; KeyError when it is not there."""
        return self._weights[self._source_names[name]].shape

    def use(self, weight: Weight) -> tuple[SourceView, ...]:
        """The views that make up a weight, their sources marked as used, each as far as it is.

        A source weight may be used any number of times. One that is missing, misshapen or not of a float type is
        noted for `finish` and left out here.
        """
        return tuple(
            SourceView(self._source_names[piece.name], piece, self._weights)
            for piece in weight.pieces
            if self._use(piece)
        )

    def _use(self, piece: Piece) -> bool:
        name = piece.name
        if name not in self._source_names:
            self._missing.setdefault(name, piece.source_shape)
            return False
        self._open.discard(name)
        values = self._weights[self._source_names[name]]
        if values.shape != piece.source_shape:
            self._unfit[name] = f"has shape {values.shape}, the config calls for {piece.source_shape}"
        elif values.dtype.name not in _FLOATS:
            self._unfit[name] = (
                f"has the type {values.dtype.name}, not a float type; a quantised model has to be dequantised first"
            )
        else:
            self._uses.setdefault(name, []).append(piece.ranges)
            return True
        return False

    def drop(self, name: str, reason: str) -> None:
        """Mark a weight as one that the model has no use for; of one used in part, the rest."""
        self._open.discard(name)
        rest = self._unused_part(name)
        self._uses.pop(name, None)
        self.dropped.append(DroppedWeight(self._source_names[name] + rest, reason))

    def drop_matching(self, pattern: str, reason: str) -> None:
        """Drop every weight not used yet whose whole name fits a regular expression."""
        for name in self._source_names:
            if name in self._open and re.fullmatch(pattern, name):
                self.drop(name, reason)

    def drop_index(self, name: str, expected: npt.NDArray, meaning: str) -> None:
        """Drop a stored index table if it holds what every model of the kind counts on; note it otherwise."""
        if name not in self._source_names:
            return
        values = self._weights[self._source_names[name]]
        self._open.discard(name)
        if values.size != expected.size or not np.array_equal(values.reshape(-1), expected):
            self._unfit[name] = f"is not {meaning}, which this converter assumes"
            return
        self.dropped.append(DroppedWeight(self._source_names[name], f"checked to be {meaning}"))

    def finish(self) -> None:
        """Raise CheckpointError listing every missing, misshapen and unused weight or part, if there is any."""
        listed = [
            *((name, f"{self._prefix}{name} {shape} is missing") for name, shape in self._missing.items()),
            *(("", f"{self._source_names[name]} {problem}") for name, problem in self._unfit.items()),
            *(("", f"{part} of {self._source_names[name]} is not used") for name, part in self._half_used()),
            *(
                ("", f"{self._source_names[name]} is not used by this architecture")
                for name in sorted(self._open)
            ),
        ]
        if not listed:
            return
        problems = [text + self._hint(missing) for missing, text in listed[:MAX_LISTED]]
        more = f"; and {len(listed) - MAX_LISTED} more" if len(listed) > MAX_LISTED else ""
        raise CheckpointError(
            f"{self._model_dir} does not hold the weights that its config.json calls for, {len(listed)} "
            f"problem(s): {'; '.join(problems)}{more}. Nothing was written."
        )

    def _half_used(self) -> list[tuple[str, str]]:
        parts = ((name, self._unused_part(name)) for name in self._uses)
        return [(name, part) for name, part in parts if part]

    def _unused_part(self, name: str) -> str:
        return unused_part(self.shape(name), self._uses[name]) if name in self._uses else ""

    def _hint(self, missing: str) -> str:
        hint = did_you_mean(missing, self._open) if missing else ""
        return f" ({hint})" if hint else ""


def check_source_fields(
    data: Mapping[str, object], known: Iterable[str], where: Path, *, advice: str
) -> None:
    """Raise CheckpointError for a field of a source config that the converter does not know."""
    known = sorted(known)
    for name in data:
        if name not in known and not name.startswith("_"):
            hint = did_you_mean(name, known)
            raise CheckpointError(f"{where} has the unknown field {name}={data[name]!r}. {hint} {advice}")
