"""The logit lens and direct logit attribution as sections of a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.lens import Lens, LogitAttribution, TopTokens
from trtllm_ext.analysis.decomposition.showing import MOST_COLUMNS, columns_of, cut_note, short_name
from trtllm_ext.analysis.report import Report
from trtllm_ext.analysis.running.running import StreamRun

Array = np.ndarray[Any, Any]
# A text for a token id.
Texts = Callable[[int], str]

_MOST_ROWS = 400


def lens_points(run: StreamRun, end: Array) -> dict[str, Array]:
    """The streams that the lens looks at, float [tokens, hidden] by name: before the first sublayer, after each.

    Behind a norm of the stream where it has one. end: the stream's end. Several streams are added up.
    """
    points = {"embedding": _one(run.before[run.parts[0].name])}
    for part, following in zip(run.parts, (*run.parts[1:], None), strict=True):
        points[part.name] = end if following is None else _one(run.before[following.name])
    # Two that join in one sum: the stream is the same behind both.
    for part, following in zip(run.parts, run.parts[1:], strict=False):
        if run.after[part.name] is run.after[following.name]:
            del points[part.name]
    return points


def show_lens(report: Report, run: StreamRun, lens: Lens, found: dict[str, TopTokens], texts: Texts) -> None:
    """The likeliest tokens of the stream after each sublayer. found: by point."""
    report.section("Logit lens")
    report.text(
        f"The final norm and the unembedding of {lens.source}, on the stream after each sublayer as if it were the "
        "last."
    )
    for remark in lens.remarks:
        report.text(f"Left out: {remark}.")
    columns = columns_of(run)
    names = [short_name(name) for name in found]
    header = [
        "token",
        "position",
        *(f"{rank + 1}" for rank in range(next(iter(found.values())).ids.shape[1])),
    ]
    rows = []
    for name, top in zip(names, found.values(), strict=True):
        for token, label in enumerate(columns):
            cells = [
                f"{texts(int(i))} {p:.3f}"
                for i, p in zip(top.ids[token], top.probabilities[token], strict=True)
            ]
            rows.append([label, name, *cells])
    caption = f"The likeliest next tokens with their probability, by token and the sublayer read behind.{cut_note(run)}"
    report.table("lens.top", header, rows[:_MOST_ROWS], caption)
    best = np.stack([top.probabilities[: len(columns), 0] for top in found.values()])
    caption = f"Probability of the likeliest next token.{cut_note(run)}"
    report.heat_map(
        "lens.probability",
        best,
        names,
        columns,
        caption,
        "probability",
        row_label="after",
        column_label="token",
    )
    for field in ("ids", "logits", "probabilities"):
        report.arrays(f"lens.{field}", np.stack([getattr(top, field) for top in found.values()]))


def show_attribution(report: Report, run: StreamRun, found: LogitAttribution, titles: Sequence[str]) -> None:
    """What each part adds to the logits of the targets. titles: of the targets."""
    report.section("Direct logit attribution")
    report.text(
        "What each part of the stream adds to a token's logit, the final norm being taken with the statistics of the "
        "whole stream. Over the parts, the final norm's bias and the head's they add up to the logit; that was checked "
        "in float64."
    )
    columns, names = columns_of(run), [short_name(name) for name in found.names]
    for number, title in enumerate(titles):
        report.heat_map(
            f"attribution.{number}",
            found.values[:, :MOST_COLUMNS, number],
            names,
            columns,
            f"Direct effect on the logit of {title}, by part and token.{cut_note(run)}",
            "logit",
            True,
            row_label="part",
            column_label="token",
        )
    last = [[name, *found.values[row, -1].tolist()] for row, name in enumerate(found.names)]
    last.append(["all", *found.logits[-1].tolist()])
    report.table("attribution.last", ["part", *titles], last, "At the last token.")
    report.arrays("attribution.all", found.values)
    report.arrays("attribution.ids", found.ids)
    report.arrays("attribution.logits", found.logits)


def _one(values: Array) -> Array:
    return values.sum(1, dtype=np.float64) if values.ndim == 3 else values
