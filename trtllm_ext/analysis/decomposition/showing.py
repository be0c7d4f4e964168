"""A decomposition as sections of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from trtllm_ext.analysis.decomposition.decomposition import Decomposition
from trtllm_ext.analysis.report import Report
from trtllm_ext.analysis.running.packing import labels_or_numbers
from trtllm_ext.analysis.running.running import StreamRun

Array = np.ndarray[Any, Any]

# Columns of a figure: more tokens are in the arrays alone.
MOST_COLUMNS = 48


def short_name(name: str) -> str:
    """'transformer.layers.3.mlp' -> '3.mlp', for axes."""
    return name.removeprefix("transformer.").removeprefix("layers.").removeprefix("embedding.")


def columns_of(run: StreamRun) -> list[str]:
    """A label for each token that figures show: its number and text."""
    labels = labels_or_numbers(run.tokens, run.num_tokens)[:MOST_COLUMNS]
    return labels if run.tokens is None else [f"{number} {label}" for number, label in enumerate(labels)]


def cut_note(run: StreamRun) -> str:
    """What a caption says of tokens that are not shown."""
    left = run.num_tokens - MOST_COLUMNS
    return f" The first {MOST_COLUMNS} of {run.num_tokens} tokens." if left > 0 else ""


def summary(result: Decomposition) -> tuple[list[str], list[list[str]]]:
    """A short table for a terminal: sublayers, means over the tokens."""
    joining = result.joining
    header = ["sublayer", "norm", "stream", "share", "cosine before", "cosine after"]
    columns = (joining.norm, joining.after_norm, joining.share, joining.cosine_before, joining.cosine_after)
    rows = [
        [short_name(name), *(f"{_mean(column[number]):.3g}" for column in columns)]
        for number, name in enumerate(joining.names)
    ]
    return header, rows


def sum_sentence(result: Decomposition) -> str:
    """How nearly the parts add up."""
    return (
        f"The {len(result.parts) - 1} parts add up to the stream: what the engine rounded is at most "
        f"{result.rounding:.2g} of its length. The widest step, {result.widest_step}, took {result.share_of_bound:.2g} "
        f"of what its types allow ({result.run.stream_dtype} stream, {result.run.config.dtype} model)."
    )


def show_decomposition(report: Report, result: Decomposition) -> None:
    """Two sections: where sublayers join the stream, and the parts at its end."""
    _show_joining(report, result)
    _show_end(report, result)


def _show_joining(report: Report, result: Decomposition) -> None:
    joining, run = result.joining, result.run
    report.section("What each sublayer adds where it joins")
    streams = run.config.contract.feed_forward.residual.hyper_connections
    note = " Several streams are taken as their sum." if streams is not None else ""
    report.text(
        "The share of a contribution c in the stream x after it is <c, x> / |x|². A negative one takes away from what "
        "the stream ends up as; cosines tell whether a sublayer writes along the stream or across it." + note
    )
    rows = [short_name(name) for name in joining.names]
    figures = (
        ("norm", joining.norm, "length of the contribution", "Length of what is added", False),
        ("share", joining.share, "share of the stream after it", "Share of the stream after the sum", True),
        ("cosine_before", joining.cosine_before, "cosine", "Cosine with the stream before the sum", True),
        ("cosine_after", joining.cosine_after, "cosine", "Cosine with the stream after the sum", True),
    )
    for name, values, unit, caption, diverging in figures:
        report.heat_map(
            f"joining.{name}",
            values[:, :MOST_COLUMNS],
            rows,
            columns_of(run),
            f"{caption}, by sublayer and token.{cut_note(run)}",
            unit,
            diverging,
            row_label="sublayer",
            column_label="token",
        )
        report.arrays(f"joining.{name}.all", values)
    series = {
        "contribution": [_mean(row) for row in joining.norm],
        "stream after": [_mean(row) for row in joining.after_norm],
    }
    caption = "Mean length over the tokens, in the order of execution."
    report.lines("joining.lengths", np.arange(len(rows)), series, "sublayer", "length", caption, log=True)


def _show_end(report: Report, result: Decomposition) -> None:
    run = result.run
    report.section("The stream's end as the sum of its parts")
    report.text(sum_sentence(result), *_how_followed(result))
    header = ["part", "kind", "norm", "share", "cosine"]
    rows = [
        [
            part.name,
            part.kind,
            *(_mean(values[number]) for values in (result.norm, result.share, result.cosine)),
        ]
        for number, part in enumerate(result.parts)
    ]
    report.table("parts", header, rows, "Means over the tokens. Shares of a token add up to 1.")
    names = [short_name(name) for name in result.part_names]
    report.heat_map(
        "parts.share",
        result.share[:, :MOST_COLUMNS],
        names,
        columns_of(run),
        f"Each part's share of the stream at its end, <part, x> / |x|².{cut_note(run)}",
        "share",
        True,
        row_label="part",
        column_label="token",
    )
    for name, values in (("norm", result.norm), ("share", result.share), ("cosine", result.cosine)):
        report.arrays(f"parts.{name}.all", values)
    report.arrays("stream.norm", result.stream_norm)


def _how_followed(result: Decomposition) -> list[str]:
    contract = result.run.config.contract
    residual = contract.feed_forward.residual
    said = []
    if residual.placement == "post":
        said.append(
            "The stream is normalised after each sum. With the mean and the deviation of the whole stream a norm is a "
            "linear map, so each part is carried through all later norms, and their biases are parts of their own."
        )
    if residual.skip_scale != 1.0:
        said.append(
            f"Each sum multiplies the stream by {residual.skip_scale:g}, and so every part that is in it."
        )
    if residual.hyper_connections is not None:
        said.append(
            "There are several streams. Given the mixing matrices of the run, which are computed from the streams, "
            "they mix linearly; each part is carried through them, and the streams are added at the end."
        )
    return said


def show_pooled(report: Report, names: Sequence[str], effects: Array, *, is_own: bool, kind: str) -> None:
    """What parts add to the pooled vectors along directions.

    effects: [parts, sentences, directions]. is_own: the directions are the sentences' own unit vectors.
    """
    report.section("Direct effect on the pooled vector")
    what = "each sentence's own unit vector" if is_own else "the given directions"
    report.text(
        f"The inner product of each part of the pooled vector with {what}; over all parts they add up to that of the "
        "vector itself." + (_TANH if kind == "pooler" else "") + _LENGTH
    )
    shown = (
        effects[:, np.arange(effects.shape[1]), np.arange(effects.shape[1])] if is_own else effects[:, :, 0]
    )
    columns = [f"sentence {number + 1}" for number in range(min(shown.shape[1], MOST_COLUMNS))]
    report.heat_map(
        "pooled.effect",
        shown[:, :MOST_COLUMNS],
        [short_name(name) for name in names],
        columns,
        "Direct effect by part and sentence" + ("." if is_own else ", on the first direction."),
        "effect",
        True,
        row_label="part",
        column_label="sentence",
    )
    if is_own and effects.shape[1] > 1:
        report.text(
            "The array `pooled.effect.all` has every sentence's parts along every other's vector as well, which add up "
            "to their cosine similarity."
        )
    report.arrays("pooled.effect.all", effects)


_TANH = (
    " The pooler's tanh(z) is taken as z times tanh(z) / z, fixed at the whole vector: an attribution that adds up, "
    "not a derivative."
)
_LENGTH = " Where the model divides by the vector's length, it is the whole vector's."


def _mean(values: Array) -> float:
    """Over the tokens where there is a value."""
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
