"""A Bandwidth as sections of a report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtllm_ext.analysis.bandwidth.bandwidth import Bandwidth
from trtllm_ext.analysis.bandwidth.massive import MASSIVE_RATIO, MASSIVE_VALUE
from trtllm_ext.analysis.bandwidth.spectrum import PointSpectrum
from trtllm_ext.analysis.bandwidth.writer_spectra import WriterSpectrum
from trtllm_ext.analysis.report import Report

HEADER = ["stream", "norm", "of the mean", "participation ratio", "effective rank", "for 90 %", "for 99 %"]
# Spectra drawn in one figure.
_MOST_LINES = 8


def show_bandwidth(report: Report, found: Bandwidth) -> None:
    """Add its sections: the stream's, who fills it, massive dimensions, the writers' matrices; those there are."""
    if found.points:
        _show_spectra(report, found)
        _show_massive(report, found)
    if found.fillings:
        _show_filling(report, found)
    if found.writers:
        _show_writers(report, found.writers)


def summary_rows(found: Bandwidth) -> list[list[object]]:
    """A row a point, under HEADER."""
    rows: list[list[object]] = []
    for point in found.points:
        each = point.centred_dimensions
        measures = [each.participation_ratio, each.effective_rank, each.for_90, each.for_99]
        rows.append([short(point.name), point.norm, point.mean_share, *measures])
    return rows


def short(name: str) -> str:
    """'layers.3.mlp.before' of 'transformer.layers.3.mlp.before'."""
    return name.removeprefix("transformer.")


def _show_spectra(report: Report, found: Bandwidth) -> None:
    points, hidden = found.points, found.hidden_size
    report.section("How many directions the stream fills")
    report.text(
        f"Eigenvalues of the covariance of {found.num_tokens} tokens at each point of a stream of {hidden} dimensions. "
        "Participation ratio: (sum l)^2 / sum l^2. Effective rank: exp of the entropy of l / sum l (Roy, Vetterli "
        "2007). For 90 %, for 99 %: the fewest directions that hold that share of the variance. Norm: the root of the "
        "mean squared norm; of the mean: the share of it that the mean vector alone holds.",
        *_few_tokens(found),
    )
    report.table("spectrum", HEADER, summary_rows(found), "Of the covariance; the mean is taken off.")
    rows = [
        [short(point.name), each.participation_ratio, each.effective_rank, each.for_90, each.for_99]
        for point, each in ((point, point.uncentred_dimensions) for point in points)
    ]
    caption = "Of the mean of x x^T: with the mean as one of the directions."
    report.table("spectrum_uncentred", [HEADER[0], *HEADER[3:]], rows, caption)
    x = np.arange(len(points))
    series = {
        "effective rank": np.array([point.centred_dimensions.effective_rank for point in points]),
        "participation ratio": np.array([point.centred_dimensions.participation_ratio for point in points]),
        "for 90 %": np.array([point.centred_dimensions.for_90 for point in points], float),
        "effective rank, uncentred": np.array(
            [point.uncentred_dimensions.effective_rank for point in points]
        ),
    }
    labels = [short(point.name) for point in points]
    report.lines(
        "dimension_by_layer", x, series, f"point of the stream, {labels[0]} to {labels[-1]}", "directions",
        f"Effective dimension from point to point; the stream has {hidden}.",
    )  # fmt: skip
    drawn = _some(points)
    spectra = {short(point.name): _relative(point) for point in drawn}
    report.lines(
        "eigenvalues", np.arange(1, hidden + 1), spectra, "direction", "share of the variance",
        "The spectrum at some points, the largest eigenvalue first.", log=True,
    )  # fmt: skip
    report.arrays("stream_eigenvalues", np.stack([point.centred for point in points]))
    report.arrays("stream_eigenvalues_uncentred", np.stack([point.uncentred for point in points]))
    report.arrays("stream_means", np.stack([point.mean for point in points]))


def _few_tokens(found: Bandwidth) -> tuple[str, ...]:
    if found.num_tokens >= 10 * found.hidden_size:
        return ()
    return (
        f"{found.num_tokens} tokens are few for {found.hidden_size} dimensions: a covariance has at most one direction "
        "fewer than tokens, and all counts here are too small. Ten tokens a dimension give steady ones.",
    )


def _show_massive(report: Report, found: Bandwidth) -> None:
    report.section("Massive activations")
    rows = [
        [
            short(point.name),
            each.index,
            each.share,
            each.value,
            each.ratio,
            each.text or str(each.token),
            each.is_massive,
        ]
        for point in found.points
        for each in point.named
    ]
    halves = ", ".join(f"{short(point.name)} {point.for_half}" for point in found.points)
    report.text(
        "The dimensions that hold most of the mean squared norm. Value: the largest by magnitude, and the token that "
        "has it; ratio: the largest of |value| over the median magnitude of the same token. Massive: above "
        f"{MASSIVE_VALUE:g} and {MASSIVE_RATIO:g} times that median (Sun et al. 2024, arXiv 2402.17762).",
        f"Dimensions that together hold half of the squared norm: {halves}.",
    )
    header = ["stream", "dimension", "share of norm^2", "value", "ratio", "token", "massive"]
    report.table("massive", header, rows, "The largest shares at each point.")
    indices = sorted({each.index for point in found.points for each in point.named[:4]})
    shares = np.full((len(found.points), len(indices)), np.nan)
    for row, point in enumerate(found.points):
        known = {each.index: each.share for each in point.named}
        for column, index in enumerate(indices):
            shares[row, column] = known.get(index, np.nan)
    report.heat_map(
        "massive_by_layer", shares, [short(point.name) for point in found.points], [str(each) for each in indices],
        "Share of the squared norm that single dimensions hold; empty: not among the largest there.", "share",
        row_label="stream", column_label="dimension",
    )  # fmt: skip


def _show_filling(report: Report, found: Bandwidth) -> None:
    report.section("Who fills the stream")
    writers = list(dict.fromkeys(name for each in found.fillings for name in each.share))
    values = np.array([[each.share[name] for each in found.fillings] for name in writers])
    values[np.cumsum(np.abs(values), axis=1) == 0] = np.nan
    report.text(
        "Within the directions that hold 90 % of the stream's variance at each point: the share that each part brings, "
        "tr(P^T Cov(part, stream) P) / tr(P^T Cov(stream) P). A column adds up to 1 (checked); a negative share "
        "takes out what others have brought. Parts that have passed norms of the stream are carried through them.",
    )
    columns = [short(each.point) for each in found.fillings]
    report.heat_map(
        "filling", values, [short(name) for name in writers], columns,
        "Share of the stream's variance in its leading directions, by who brought it.", "share", diverging=True,
        row_label="part", column_label="stream",
    )  # fmt: skip
    rows = [
        [short(name), short(each.point), each.share[name], inside, each.random_own]
        for each in found.fillings
        for name, inside in each.own.items()
    ]
    header = ["part", "stream behind it", "share of the stream", "its own variance in there", "at random"]
    report.table(
        "filling_by_new_parts", header, rows,
        "Each part at the first point behind it. Its own variance in there: how much of what it adds lies in the "
        "stream's leading directions; at random: directions / dimensions.",
    )  # fmt: skip


def _show_writers(report: Report, writers: Sequence[WriterSpectrum]) -> None:
    report.section("What the writers reach")
    report.text(
        "From the matrices alone, with norms, gates and scale folded in, and the norm behind the sum up to its own "
        "factor. Effective rank: of the singular values (Roy, Vetterli 2007); participation ratio: of their squares; "
        "for 90 %: the directions that hold that share of the energy, the sum of squared singular values.",
        "Energy in the stream's leading directions, and the overlap |U^T P|^2 / min(r, k) of the writer's r leading "
        "directions U with the stream's k, P, each beside what random directions give: k / dimensions, and max(r, k) / "
        "dimensions.",
    )
    header = ["part", "effective rank", "participation ratio", "for 90 %", "stream behind it",
              "energy in its directions", "at random", "overlap", "at random "]  # fmt: skip
    rows = []
    for each in writers:
        cells: list[object] = [None] * 5
        if (beside := each.overlap) is not None:
            cells = [
                short(beside.point),
                beside.energy,
                beside.random_energy,
                beside.overlap,
                beside.random_overlap,
            ]
        rows.append([short(each.part), each.effective_rank, each.participation_ratio, each.leading, *cells])
    report.table("writers", header, rows, "Matrices of one part side by side count as one.")
    report.bars(
        "writers_effective_rank", [short(each.part) for each in writers],
        {"effective rank": np.array([each.effective_rank for each in writers]),
         "for 90 % of the energy": np.array([each.leading for each in writers], float)},
        "directions", "How many directions each part's matrices reach.",
    )  # fmt: skip
    report.arrays("writer_singular_values", np.stack([each.singular_values for each in writers]))


def _some(points: Sequence[PointSpectrum]) -> list[PointSpectrum]:
    places = np.unique(np.linspace(0, len(points) - 1, min(len(points), _MOST_LINES)).round().astype(int))
    return [points[place] for place in places]


def _relative(point: PointSpectrum) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    total = point.centred.sum()
    share = point.centred / total if total > 0 else point.centred
    # What is nothing but rounding has no place on a logarithmic axis.
    return np.where(share > 1e-12, share, np.nan)
