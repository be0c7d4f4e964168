"""How near to float16's largest number a model comes: at every residual add, and in every norm."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from trtllm_ext.builder import BuildConfig
from trtllm_ext.builder.building import build
from trtllm_ext.checkpoint import Checkpoint, load_whole
from trtllm_ext.verify.formulas import evaluate, points_of
from trtllm_ext.verify.references import model_of
from trtllm_ext.verify.subject import Subject, check_finite, typed_inputs

FLOAT16_MAX = 65504.0
# Inputs other than those tried may be some times larger.
WANTED_BITS = 2.0


@dataclass(frozen=True)
class HeadroomRow:
    """One place. what: 'contribution', 'add' (the stream after it) or 'norm' (what it is given).

    largest: the largest magnitude, in float64. mean_square: of a norm, the largest mean of squares of any row; its
    sum of squares and the square of `largest` are what a float16 statistic would have to hold.
    """

    name: str
    what: str
    largest: float
    mean_square: float | None = None

    @property
    def bits(self) -> float:
        """log2 of how many times larger the numbers may become; below 0 float16 has overflowed."""
        return _bits(self.largest)

    @property
    def square_bits(self) -> float | None:
        """The same of the largest square that a norm needs, which this library computes in float32."""
        return None if self.mean_square is None else _bits(self.largest**2)

    @property
    def state(self) -> str:
        """'over' where float16 overflows, 'near' where less than WANTED_BITS remain, else 'ok'."""
        if self.bits < 0 or math.isnan(self.largest):
            return "over"
        return "near" if self.bits < WANTED_BITS else "ok"


@dataclass(frozen=True)
class Headroom:
    """rows: in the order of execution. clamp: whether the contract brings float16 sums back into their range (T5)."""

    rows: tuple[HeadroomRow, ...]
    dtype: str
    clamp: bool
    shapes: Mapping[str, tuple[int, ...]]

    @property
    def is_safe(self) -> bool:
        """Whether float16 holds every number of this run with room to spare."""
        return all(row.state == "ok" for row in self.rows)

    @property
    def least(self) -> HeadroomRow:
        """Where the least room is."""
        return min(self.rows, key=lambda row: row.bits)

    @property
    def verdict(self) -> str:
        """Whether float16 is safe, in sentences."""
        told = self._about_numbers()
        squares = [row for row in self.rows if row.square_bits is not None and row.square_bits < 0]
        if squares:
            told += (
                f" The squares in {squares[0].name} would overflow in float16; norms are computed in float32 here, and "
                f"must stay so elsewhere."
            )
        return told

    def _about_numbers(self) -> str:
        least = self.least
        broken = next((row for row in self.rows if not math.isfinite(row.largest)), None)
        if broken is not None:
            return (
                f"The numbers are {broken.largest} from {broken.name} ({broken.what}) on, in float64 as in any type: "
                f"weights of this checkpoint are NaN, infinite, or far too large."
            )
        where = f"{least.name} ({least.what}), whose largest number is {least.largest:.4g}"
        if least.state == "over":
            first = next(row.name for row in self.rows if row.state == "over")
            told = f"float16 overflows: first at {first}, most at {where}."
            if self.clamp:
                told += " The contract brings sums of the stream back into the range, as T5 does."
            return f"{told} Build it in bfloat16 or float32, or with a float32 residual stream."
        room = f"{least.bits:.1f} bits of room at the least, at {where}"
        if least.state == "near":
            return f"float16 is just enough for this input: {room}. Larger inputs may overflow."
        return f"float16 is safe for this input: {room}."

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        rows = [
            asdict(row)
            | {"bits": _plain(row.bits), "square_bits": _plain(row.square_bits), "state": row.state}
            for row in self.rows
        ]
        return {"dtype": self.dtype, "is_safe": self.is_safe, "verdict": self.verdict, "rows": rows}


def headroom(
    checkpoint: str | os.PathLike[str] | Checkpoint,
    *,
    inputs: Mapping[str, Any] | None = None,
    allow_nan: bool = False,
) -> Headroom:
    """The largest numbers of a checkpoint's model, in float64 by the contract's formulas, beside float16's largest.

    checkpoint: of any type, a directory or in memory. inputs: an array for each of the model's inputs; by default
    seeded ones, of which those of a SublayerStack are normal numbers and may be smaller than a real stream's.
    Raises CheckpointError; InputError, also for inputs without numbers, or with NaN or infinity.
    """
    found = checkpoint if isinstance(checkpoint, Checkpoint) else load_whole(checkpoint, allow_nan=allow_nan)
    planned = build(model_of(found, BuildConfig()), BuildConfig(dry_run=True))
    subject = Subject("the model", planned.config, planned.inputs, None, planned)
    given = subject.seeded_inputs() if inputs is None else typed_inputs(subject, inputs)
    subject.check(given)
    check_finite(given)
    rows: list[HeadroomRow] = []

    def observe(name: str, x: Any) -> None:
        mean = float((x**2).mean(-1).max())
        rows.append(HeadroomRow(name, "norm", _largest(x), mean))

    # In float32 no clamp hides what float16 would have overflowed to.
    points = points_of(replace(found.config, dtype="float32"), found.weights, observe)
    watched = [_watched(point, rows) for point in points]
    evaluate(watched, given)
    residuals = [found.config.contract.feed_forward.residual]
    if found.config.contract.attention is not None:
        residuals.append(found.config.contract.attention.residual)
    shapes = {name: tuple(value.shape) for name, value in given.items()}
    return Headroom(
        tuple(rows), found.config.dtype, any(each.clamp == "float16" for each in residuals), shapes
    )


def _watched(point: Any, rows: list[HeadroomRow]) -> Any:
    """The same point, whose value is noted as it comes about, so that rows are in the order of execution."""
    what = {"after": "add", "contribution": "contribution"}.get(point.name.rpartition(".")[2])
    if what is None:
        return point

    def formula(*arguments: Any) -> Any:
        value = point.formula(*arguments)
        rows.append(HeadroomRow(point.name, what, _largest(value)))
        return value

    return replace(point, formula=formula)


def _largest(value: Any) -> float:
    return float(np.abs(value).max(initial=0.0))


def _bits(largest: float) -> float:
    if not math.isfinite(largest):
        return -math.inf
    return math.inf if largest == 0 else math.log2(FLOAT16_MAX / largest)


def _plain(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
