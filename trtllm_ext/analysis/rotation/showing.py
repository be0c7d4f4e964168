"""A comparison of a network with its rotation as tables and figures of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtllm_ext.analysis.report import Report
from trtllm_ext.analysis.rotation.comparison import Comparison, SublayerRow, WeightRow
from trtllm_ext.analysis.rotation.outliers import Outliers
from trtllm_ext.analysis.rotation.schemes import SCHEMES

_MEASURES = ("peak", "kurtosis", "channel", "share")
_MEASURED = (
    "`peak`: largest magnitude over the rms of all values. `kurtosis`: fourth moment over the squared second, 3 for a "
    "normal distribution. `channel`: rms of the largest channel of the stream over that of all. `share`: what the "
    "largest channel holds of the sum of squares. Each as original -> rotated."
)


def show_weights(report: Report, compared: Comparison) -> None:
    """A section of the matrices that read and write the stream."""
    before, after = compared.original.weights, compared.rotated.weights
    pairs = _paired(before, after)
    report.section("Weights")
    report.text(
        "The matrices that read the stream, by columns, and those that write it, by rows; of several in a part the "
        f"worst one by each measure. {_MEASURED}"
    )
    header = ["part", "side", *_both(_MEASURES)]
    rows = [[one.part, one.side, *_values(one.outliers, other.outliers)] for one, other in pairs]
    report.table("weight_outliers", header, rows, "Outliers of the weights")
    names = list(before[0].errors)
    rows = [[a.part, a.side, *(e for n in names for e in (a.errors[n], b.errors[n]))] for a, b in pairs]
    caption = "What rounding changes of the weights, as a share of their norm"
    report.table("weight_errors", ["part", "side", *_both(names)], rows, caption)
    labels = [f"{one.part.removeprefix('transformer.')} {one.side}" for one, _ in pairs]
    for name in names:
        series = {
            "original": [a.errors[name] for a, _ in pairs],
            "rotated": [b.errors[name] for _, b in pairs],
        }
        title = f"Rounding of the weights to {name}, as a share of their norm"
        report.bars(f"weight_errors_{_plain(name)}", labels, series, "relative error", title)


def show_sublayers(report: Report, compared: Comparison) -> None:
    """Sections of the activations and of the quantised sublayers, for a comparison on an input."""
    before, after = compared.original.sublayers, compared.rotated.sublayers
    report.section("Activations")
    report.text(
        "The stream before each sublayer, and what the sublayer's matrices are multiplied by: the stream behind its "
        f"norm. {_MEASURED}"
    )
    for name, of in (("stream", "The stream"), ("read", "What the sublayers read")):
        rows = [
            [a.name, *_values(getattr(a, name), getattr(b, name))] for a, b in zip(before, after, strict=True)
        ]
        report.table(f"{name}_outliers", ["sublayer", *_both(_MEASURES)], rows, of)
    _lines(report, before, after, "peak of what the sublayers read", "read_peak", lambda row: row.read.peak)
    report.section("Quantised sublayers")
    report.text(
        "|quantised - exact| / |exact| of each sublayer's output over all tokens, computed in float64 with values "
        "rounded to the type's grid; each sublayer is given the exact stream. Routers, norms and softmax are exact.",
        *(f"`{scheme.name}`: {scheme.meaning}." for scheme in SCHEMES),
    )
    names = list(before[0].errors)
    rows = [
        [a.name, *(e for n in names for e in (a.errors[n], b.errors[n]))]
        for a, b in zip(before, after, strict=True)
    ]
    report.table("sublayer_errors", ["sublayer", *_both(names)], rows, "Errors of quantised sublayers")
    for name in names:
        _lines(
            report,
            before,
            after,
            f"error with {name}",
            f"errors_{_plain(name)}",
            lambda r, n=name: r.errors[n],
        )


def summary(compared: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a short table: medians over sublayers, original beside rotated."""
    rows = []
    sides = (compared.original, compared.rotated)
    if compared.original.sublayers:
        rows.append(
            ["peak of what sublayers read", *(_median([r.read.peak for r in s.sublayers]) for s in sides)]
        )
        for name in compared.original.sublayers[0].errors:
            errors = (_median([r.errors[name] for r in s.sublayers]) for s in sides)
            rows.append([f"error of a sublayer's output, {name}", *errors])
    rows.append(["peak of the weights", *(_median([r.outliers.peak for r in s.weights]) for s in sides)])
    for name in compared.original.weights[0].errors:
        rows.append(
            [f"error of the weights, {name}", *(_median([r.errors[name] for r in s.weights]) for s in sides)]
        )
    return ["median over sublayers", "original", "rotated"], rows


def _lines(
    report: Report,
    before: Sequence[SublayerRow],
    after: Sequence[SublayerRow],
    what: str,
    name: str,
    value: object,
) -> None:
    assert callable(value)
    series = {"original": [value(row) for row in before], "rotated": [value(row) for row in after]}
    every = [number for numbers in series.values() for number in numbers]
    report.lines(
        name,
        np.arange(len(before)),
        series,
        "sublayer",
        what,
        f"{what[0].upper()}{what[1:]}, by sublayer",
        log=max(every) > 10 * min(every) > 0,
    )


def _paired(before: list[WeightRow], after: list[WeightRow]) -> list[tuple[WeightRow, WeightRow]]:
    """Rows of the same part and side; a tied head that has become one of its own has no pair."""
    found = {(row.part, row.side): row for row in after}
    return [(row, found[row.part, row.side]) for row in before if (row.part, row.side) in found]


def _both(names: Sequence[str]) -> list[str]:
    return [f"{name}{suffix}" for name in names for suffix in ("", " rotated")]


def _values(before: Outliers, after: Outliers) -> list[float]:
    return [getattr(each, name) for name in _MEASURES for each in (before, after)]


def _median(values: list[float]) -> str:
    return f"{np.median(values):.3g}"


def _plain(name: str) -> str:
    return name.replace(" ", "_")
