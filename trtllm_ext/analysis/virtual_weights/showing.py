"""Virtual weights as a report: heat maps of all pairs, the strongest of them, directions where they were asked for."""

from __future__ import annotations

import re

import numpy as np

from trtllm_ext.analysis.report import Report
from trtllm_ext.analysis.virtual_weights.virtual_weights import VirtualWeights

STRONGEST = 20
_SCORE = "Composition score over that of a random turn: above 1 the reader looks where the writer writes"
_HEADER = ("writer", "reader", "score", "times random", "deviations", "Frobenius norm", "spectral norm")


def strongest(
    result: VirtualWeights, count: int = STRONGEST
) -> list[tuple[str, str, float, float, float, float, float]]:
    """The pairs with the highest score, as rows of _HEADER."""
    order = np.argsort(np.where(np.isnan(result.score), -np.inf, result.score), axis=None)[::-1]
    rows = []
    for flat in order[: min(count, int(np.isfinite(result.score).sum()))]:
        i, j = np.unravel_index(flat, result.score.shape)
        values = (
            result.score,
            result.score / result.baseline,
            result.deviations,
            result.frobenius,
            result.spectral,
        )
        a, b, c, d, e = (float(each[i, j]) for each in values)
        rows.append((short(result.writers[i]), short(result.readers[j]), a, b, c, d, e))
    return rows


def short(name: str) -> str:
    """'transformer.layers.3.mlp.fc' as '3.mlp.fc'."""
    return re.sub(r"^transformer\.(layers\.)?", "", name)


def show_virtual_weights(report: Report, result: VirtualWeights, *, samples: int = 0, seed: int = 0) -> None:
    """Add sections to a report."""
    rows, columns = [short(name) for name in result.writers], [short(name) for name in result.readers]
    report.section("Virtual weights")
    report.text(
        "What a later reader R makes of what an earlier writer W adds to the stream is their product R W: R is the "
        "matrix with the gain of its norm folded in, W with what stands behind it. What a norm divides by belongs to "
        "the token and is left out. Experts of one role count as one matrix.",
        "The composition score is `||R W|| / (||R|| ||W||)`, Frobenius norms. Of a reader turned at random the root of "
        f"its mean square is 1 / sqrt(hidden) = {result.baseline:.4g}, whatever the spectra are: that is the baseline, "
        "computed, not drawn. `deviations` says how many standard deviations the score's square lies from it, those "
        "that random turns of these two matrices have.",
    )
    for name, values, caption, unit in (
        ("score_over_random", result.score / result.baseline, _SCORE, "ratio"),
        ("spectral_norm", result.spectral, "Spectral norm of the product", "norm"),
        ("frobenius_norm", result.frobenius, "Frobenius norm of the product", "norm"),
    ):
        report.heat_map(
            name,
            values,
            rows,
            columns,
            caption,
            unit,
            row_label="writer",
            column_label="reader",
            log=unit == "norm",
        )
    report.table("strongest_pairs", _HEADER, strongest(result), "The pairs with the highest score")
    for name in ("score", "deviations"):
        report.arrays(name, getattr(result, name))
    if result.unfinished:
        pairs = ", ".join(f"{short(writer)} to {short(reader)}" for writer, reader in result.unfinished[:5])
        report.text(f"The spectral norm had not settled in {len(result.unfinished)} pair(s): {pairs}.")
    _show_samples(report, result, samples, seed)
    _show_directions(report, result)


def _show_samples(report: Report, result: VirtualWeights, samples: int, seed: int) -> None:
    if not result.sampled:
        return
    report.section("Random turns")
    report.text(f"The scores of {samples} random turns of each reader, drawn from seed {seed}.")
    rows = [
        (short(writer), short(reader), float(np.mean(drawn)), float(np.std(drawn)), float(np.max(drawn)))
        for (writer, reader), drawn in result.sampled.items()
    ]
    report.table("random_turns", ("writer", "reader", "mean", "deviation", "largest"), rows)


def _show_directions(report: Report, result: VirtualWeights) -> None:
    if not result.directions:
        return
    report.section("Leading directions")
    report.text(
        "The leading singular values of each product. arrays.safetensors holds, for each pair by its number, the "
        "directions of the stream that W writes for them (`written_N`) and that R reads (`read_N`), of length 1."
    )
    rows = []
    for number, ((writer, reader), found) in enumerate(result.directions.items()):
        rows += [
            (number, short(writer), short(reader), k, float(value)) for k, value in enumerate(found.values)
        ]
        report.arrays(f"written_{number}", found.written)
        report.arrays(f"read_{number}", found.read)
    report.table("directions", ("number", "writer", "reader", "direction", "singular value"), rows)
