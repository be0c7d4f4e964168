"""An engine run unchanged and changed, side by side, and what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.packing import Batch
from trtllm_ext.analysis.steering.steering import Surgery
from trtllm_ext.errors import InputError
from trtllm_ext.runtime import Session

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Change:
    """verb: what a Surgery does to `name`, which may be a pattern.

    values: of 'scale' one number; of 'add' and 'replace' [hidden] for all tokens, or [tokens, hidden] for those of the
        whole input without padding, or of 'replace' None for the mean over the tokens of what is replaced.
    """

    verb: Literal["scale", "drop", "replace", "add"]
    name: str
    values: Array | None = None


@dataclass(frozen=True)
class Difference:
    """of: an output or a tap. largest: of any element; relative: Euclidean norms; cosine: the mean over rows."""

    of: str
    largest: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class Steered:
    """unchanged, changed: by output, one row a token (or a sentence), in the order of the input, padding left out."""

    unchanged: Mapping[str, Array]
    changed: Mapping[str, Array]

    def differences(self) -> list[Difference]:
        """Of every output."""
        return [_difference(name, value, self.changed[name]) for name, value in self.unchanged.items()]

    def shares(self, name: str) -> Array:
        """By row, the length of what has changed as a share of the unchanged row's."""
        before, after = _rows(self.unchanged[name]), _rows(self.changed[name])
        lengths = np.linalg.norm(before, axis=1)
        share: Array = np.linalg.norm(after - before, axis=1) / np.where(lengths > 0, lengths, 1.0)
        return share


def steer(
    session: Session, batches: Sequence[Batch], changes: Sequence[Change], progress: Progress | None = None
) -> Steered:
    """Run all batches as they are, then with the changes.

    Memory: all outputs twice. Raises InputError for a change that does not fit the engine or the input, before anything
    runs where that can be told, and for a mean where the engine has no tap of the value.
    """
    tell = progress or silent
    names = {info.name for info in session.outputs}
    count = sum(batch.num_rows for batch in batches)
    for change in changes:
        _applied(Surgery(session), change, batches[0], count, None)
        if change.verb == "replace" and change.values is None:
            _check_taps(Surgery(session), change, names)
    total = 2 * len(batches)
    unchanged = _run(session, [batch.arrays for batch in batches], batches, "unchanged", 0, total, tell)
    means = {name: _rows(value).mean(0).reshape(value.shape[1:]) for name, value in unchanged.items()}
    inputs = []
    for batch in batches:
        surgery = Surgery(session)
        for change in changes:
            _applied(surgery, change, batch, count, means)
        inputs.append({**batch.arrays, **surgery.inputs(batch.arrays)})
    changed = _run(session, inputs, batches, "changed", len(batches), total, tell)
    tell("changed", total, total)
    return Steered(unchanged, changed)


def _check_taps(surgery: Surgery, change: Change, outputs: set[str]) -> None:
    for point in surgery.named_contributions(change.name):
        if point not in outputs:
            raise InputError(
                f"the mean of {point} is not known: the engine has no tap of it. Build it with --taps {point} beside "
                f"--surgery, or give the values to put in its place."
            )


def _applied(
    surgery: Surgery, change: Change, batch: Batch, count: int, means: Mapping[str, Array] | None
) -> None:
    """means: by tap, of the unchanged run; None where a change is only to be checked."""
    if change.verb == "drop":
        surgery.drop(change.name)
    elif change.verb == "scale":
        surgery.scale(change.name, float(np.asarray(change.values)))
    elif change.values is None:
        for point in surgery.named_contributions(change.name):
            if means is not None:
                surgery.replace(point, means[point])
    else:
        values = change.values
        if values.ndim > 1 and values.shape[0] == count:
            values = _of_batch(values, batch)
        elif values.ndim > 1:
            raise InputError(
                f"the values for {change.name} have shape {values.shape}, and the input has {count} tokens without "
                f"padding. Give one row for all of them, or one each."
            )
        (surgery.replace if change.verb == "replace" else surgery.add)(change.name, values)


def _of_batch(values: Array, batch: Batch) -> Array:
    """One row a token of the whole input, as the tokens lie in a run; 0 for padding."""
    own = values[batch.places]
    if batch.mask is None:
        rows = batch.arrays["hidden_states"].shape[0]
        return own[np.minimum(np.arange(rows), len(own) - 1)]
    placed = np.zeros((*batch.arrays["input_ids"].shape, *values.shape[1:]), values.dtype)
    placed[: len(batch.mask), : batch.mask.shape[1]][batch.mask] = own
    return placed


def _run(
    session: Session,
    inputs: Sequence[Mapping[str, Any]],
    batches: Sequence[Batch],
    step: str,
    done: int,
    total: int,
    tell: Progress,
) -> dict[str, Array]:
    """Every output, its rows in the order of the input."""
    kept: dict[str, list[tuple[Array, Array]]] = {}
    for number, (given, batch) in enumerate(zip(inputs, batches, strict=True)):
        tell(step, done + number, total)
        for name, value in session.run(given).items():
            rows, places = batch.rows_of(value, name)
            kept.setdefault(name, []).append((np.asarray(places), np.array(rows, np.float32)))
    return {
        name: np.concatenate([rows for _, rows in found])[
            np.argsort(np.concatenate([places for places, _ in found]))
        ]
        for name, found in kept.items()
    }


def _difference(name: str, unchanged: Array, changed: Array) -> Difference:
    before, after = _rows(unchanged), _rows(changed)
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosines = (before * after).sum(1) / np.where(lengths > 0, lengths, 1.0)
    whole = float(np.linalg.norm(before))
    return Difference(
        name,
        float(np.abs(after - before).max()),
        float(np.linalg.norm(after - before)) / (whole or 1.0),
        float(cosines.mean()),
    )


def _rows(value: Array) -> Array:
    """float64 [rows, the rest of each]."""
    return value.reshape(len(value), -1).astype(np.float64)
