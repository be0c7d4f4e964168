"""What a verification has found, as data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Row:
    """One tensor that the engine exposes, beside its references. An error is None where there is no such reference.

    point: of its sublayer ('contribution'), or its own name. made_by: the module whose result it is, where that is not
    `sublayer`: what a sublayer finds before it is the work of another.
    oracle, formulas: errors of the whole run up to here.
    oracle_alone, formulas_alone: of the last step alone, given the engine's own tensors before it; these decide.
    not_finite: what there is of NaN and infinity where the references have none; else "".
    is_finite: whether all of it is, wherever the references are.
    rows_left_out: rows that were not compared: tokens of a mixture that a rounding may send to another expert.
    """

    tensor: str
    sublayer: str
    point: str
    tolerance: float
    oracle: float | None = None
    formulas: float | None = None
    oracle_alone: float | None = None
    formulas_alone: float | None = None
    not_finite: str = ""
    is_finite: bool = True
    rows_left_out: int = 0
    made_by: str = ""

    @property
    def culprit(self) -> str:
        """The module that is wrong if this tensor is the first wrong one."""
        return self.made_by or self.sublayer

    @property
    def alone(self) -> float | None:
        """The larger error of the step alone; None without any reference."""
        known = [each for each in (self.oracle_alone, self.formulas_alone) if each is not None]
        comparable = [each for each in known if not math.isnan(each)]
        return max(comparable, default=math.nan) if known else None

    @property
    def is_as_networks(self) -> bool:
        """Whether the engine computes what its network says, right or wrong."""
        return self.oracle_alone is not None and self.oracle_alone <= self.tolerance and not self.not_finite

    @property
    def is_right(self) -> bool:
        """Whether the step alone is within its tolerance, and finite."""
        error = self.alone
        return not self.not_finite and (error is None or not error > self.tolerance)


@dataclass(frozen=True)
class NetworkFault:
    """Where the network itself, computed in float64, is not what the formulas say. hint: what looks wrong, or ""."""

    tensor: str
    sublayer: str
    error: float
    tolerance: float
    hint: str = ""


@dataclass(frozen=True)
class LayerRow:
    """One tensor inside a sublayer. alone: the layer's error given the engine's own values of its inputs."""

    layer: str
    kind: str
    tensor: str
    error: float
    alone: float
    tolerance: float
    not_finite: str = ""

    @property
    def is_right(self) -> bool:
        return not self.not_finite and not self.alone > self.tolerance


@dataclass(frozen=True)
class Bisection:
    """What re-building with taps has shown.

    changed_by: the largest error of any output of the tapped engine beside the given one's; 0.0: the same bits.
    rows: of the tapped engine. untapped_is_right: of the engine built anew without taps, None where it was not needed.
    sublayer: the first wrong one of the tapped engine, whose layers are `layers`; layer: the first wrong one of them.
    differs_at: the first layer of the given engine that the one built anew without taps computes in another way, or "";
        of the embedded engine, where built anew it is right.
    failure: why the engine could not be built or run with every tensor of the sublayer as an output; else "".
    """

    changed_by: float
    same_bits: bool
    rows: tuple[Row, ...]
    sublayer: str | None = None
    layer: str | None = None
    layers: tuple[LayerRow, ...] = ()
    untapped_is_right: bool | None = None
    failure: str = ""
    differs_at: str = ""

    @property
    def clears(self) -> bool:
        """Whether the given engine is shown to be right: the same bits come of steps each of which is right."""
        return self.same_bits and all(row.is_right for row in self.rows)


@dataclass(frozen=True)
class Report:
    """The outcome of `verify_engine`.

    rows: in the order of execution. network: where the network is not what the formulas say; None where it is, or
    where there are no formulas. verdict: sentences for people, of which `findings` has one finding each; notes: what
    else they should know.
    weights_that_differ: names of weights of which the engine holds other values than the checkpoint.
    weights: 'same' or 'other' than the checkpoint's, 'unknown' where the engine does not tell them, 'own' where there
    is no checkpoint to compare them with.
    """

    engine: str
    dtype: str
    rows: tuple[Row, ...]
    network: NetworkFault | None
    verdict: str
    notes: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights_that_differ: tuple[str, ...] = ()
    bisection: Bisection | None = None
    findings: tuple[str, ...] = ()
    weights: str = "unknown"

    @property
    def first_wrong(self) -> Row | None:
        """The first tensor that leaves its tolerance; None where --bisect has shown that roundings add up to that."""
        if self.bisection is not None and self.bisection.clears:
            return None
        return next((row for row in self.rows if not row.is_right), None)

    @property
    def sublayer(self) -> str | None:
        """The first sublayer that is wrong, as finely as it is known."""
        if self.bisection is not None and self.bisection.sublayer is not None:
            return self.bisection.sublayer
        first, network = self.first_wrong, self.network
        # Between two taps, or where there are none, the network's own fault tells more than the tensor it shows in.
        if first is None or (network is not None and first.is_as_networks):
            return None if network is None else network.sublayer
        return first.culprit

    @property
    def layer(self) -> str | None:
        """The first layer that is wrong, where --bisect has found it."""
        return None if self.bisection is None else self.bisection.layer

    @property
    def is_right(self) -> bool:
        """Whether engine, network and weights are what the checkpoint means."""
        return self.first_wrong is None and self.network is None and not self.weights_that_differ

    def told(self, findings: tuple[str, ...], notes: tuple[str, ...]) -> Report:
        """A copy with its sentences."""
        return replace(self, verdict=" ".join(findings), findings=findings, notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; numbers that JSON does not have are texts ('inf', 'nan')."""
        found = asdict(self)
        found["is_right"], found["sublayer"], found["layer"] = self.is_right, self.sublayer, self.layer
        for row, data in zip(self.rows, found["rows"], strict=True):
            data["is_right"] = row.is_right
        plain: dict[str, Any] = _plain(found)
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
