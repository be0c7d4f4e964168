"""What a change of the stream has done, as sections of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trtllm_ext.analysis.running.packing import Batch, labels_or_numbers
from trtllm_ext.analysis.steering.steered import Steered
from trtllm_ext.builder.taps import Tap

if TYPE_CHECKING:
    from trtllm_ext.analysis.report import Report

# What a page shows of tokens and of sentences; all of it is in arrays.safetensors.
_MOST_TOKENS, _MOST_SENTENCES = 64, 24


def show(report: Report, found: Steered, taps: Mapping[str, Tap], batches: Sequence[Batch]) -> None:
    """Sections on the outputs and, where there are any, on the taps. taps: the engine's, by name."""
    every = found.differences()
    header = ["of", "largest", "relative", "cosine"]
    rows = {
        is_tap: [
            [each.of, each.largest, each.relative, each.cosine]
            for each in every
            if (each.of in taps) == is_tap
        ]
        for is_tap in (False, True)
    }
    report.section("Outputs")
    report.text(
        "largest: the largest difference of any element. relative: the Euclidean length of the difference of all rows, "
        "by that of the unchanged rows. cosine: of changed and unchanged rows, the mean."
    )
    report.table("outputs", header, rows[False], "outputs, changed beside unchanged")
    if "sentence_embedding" in found.unchanged:
        _show_similarities(report, found)
    after = [name for name, tap in taps.items() if tap.point == "after" and name in found.unchanged]
    if rows[True]:
        report.section("The stream")
        report.table(
            "taps", header, rows[True], "taps, changed beside unchanged; of a changed value: as it was used"
        )
    if after:
        pairs = sorted((int(place), label) for each in batches for place, label in _labelled(each))
        labels = labels_or_numbers([label for _, label in pairs] or None, len(found.unchanged[after[0]]))
        shares = [found.shares(name) for name in after]
        shown = slice(_MOST_TOKENS)
        report.heat_map(
            "stream_after",
            [share[shown] for share in shares],
            [name.removeprefix("transformer.layers.").removesuffix(".after") for name in after],
            [f"{number} {label}" for number, label in enumerate(labels[shown])],
            "what has changed of the stream after each sublayer, by token: the difference's length by the stream's",
            "share",
            row_label="sublayer",
            column_label="token",
        )
        report.arrays("stream_after_shares", shares)
    for name in found.unchanged:
        if name not in taps:
            report.arrays(f"{name}.unchanged", found.unchanged[name])
            report.arrays(f"{name}.changed", found.changed[name])


def _labelled(batch: Batch) -> list[tuple[Any, str]]:
    return [] if batch.labels is None else list(zip(batch.places, batch.labels, strict=True))


def _show_similarities(report: Report, found: Steered) -> None:
    """Cosines of the sentences' vectors with each other, before and after."""
    cosines = []
    for vectors in (found.unchanged["sentence_embedding"], found.changed["sentence_embedding"]):
        rows = vectors[:_MOST_SENTENCES].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1.0)
        cosines.append(rows @ rows.T)
    numbers = [str(number) for number in range(1, len(cosines[0]) + 1)]
    told = {
        "similarities_unchanged": (cosines[0], "cosines of the sentences' vectors, unchanged"),
        "similarities_changed": (cosines[1], "cosines of the sentences' vectors, changed"),
        "similarities_difference": (cosines[1] - cosines[0], "how much the cosines have changed"),
    }
    for name, (values, caption) in told.items():
        report.heat_map(name, values, numbers, numbers, caption, "cosine", diverging=True)
