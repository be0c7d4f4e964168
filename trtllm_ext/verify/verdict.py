"""What a verification's numbers mean, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtllm_ext import backend
from trtllm_ext.verify.references import References
from trtllm_ext.verify.report import Bisection, Report, Row


def verdict_of(report: Report) -> str:
    """Which part is wrong and where, or that nothing is."""
    parts = []
    first, bisection = report.first_wrong, report.bisection
    if report.network is not None:
        fault = report.network
        parts.append(
            f"The network is wrong at {fault.sublayer}: computed in float64, its {fault.tensor} is {fault.error:.1e} "
            f"off what the contract's formulas give on these weights ({fault.tolerance:.0e} allowed). The code that "
            f"defines this sublayer does not compute what the checkpoint says."
        )
    if first is not None:
        parts.append(_about_engine(first, report))
    if report.weights_that_differ:
        names = report.weights_that_differ
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        parts.append(
            f"The engine holds other weights than the checkpoint: {', '.join(names[:4])}{more}. It was not built from "
            f"this checkpoint as it is now; build it again."
        )
    if bisection is not None:
        parts.append(_about_bisection(bisection, first, report))
    if first is None and report.network is None and all(row.is_right for row in report.rows):
        count = len(report.rows)
        exposed = f"All {count} tensors" if count > 1 else "The one tensor"
        parts.insert(0, f"{exposed} that the engine exposes {'are' if count > 1 else 'is'} within tolerance.")
    return " ".join(parts)


def notes_of(
    report: Report,
    references: References,
    is_own: bool,
    is_mute: bool,
    bisect: bool,
    exposed: Mapping[str, Any],
) -> tuple[str, ...]:
    """What else there is to know. is_own: no checkpoint was given; is_mute: the engine does not tell its weights."""
    notes = []
    if is_own:
        notes.append(
            "no checkpoint was given, so the references are computed from the weights that the engine holds: a wrong "
            "weight is not seen"
        )
    if is_mute and not report.first_wrong:
        notes.append(
            f"the engine does not give its weights back: one that differs from the checkpoint's by so little that "
            f"numbers stay within {references.tolerances.engine:.0e} is not seen"
        )
    for layer in references.opaque[:4]:
        what = f"plugin {layer.plugin!r}" if layer.plugin else f"a layer of kind {layer.kind}"
        fed = next(iter(references.fed), None)
        on = "it is not told there" if fed is None else f"it goes on from the engine's own {fed}"
        notes.append(f"what {layer.layer} ({what}) computes is not known to the oracle; {on}")
    taps = [row for row in report.rows if row.point in ("before", "contribution", "after")]
    if not taps:
        way = "" if bisect else "; --bisect builds it anew with taps, to look inside"
        notes.append(f"the engine has no taps, so only its outputs can be compared{way}")
    left_out = max((row.rows_left_out for row in report.rows), default=0)
    if left_out:
        notes.append(
            f"{left_out} tokens stand so close between two experts of a mixture that a rounding decides; they are not "
            f"compared"
        )
    broken = next((row for row in report.rows if not row.is_finite and not row.not_finite), None)
    if broken is not None:
        notes.append(
            f"{broken.tensor} is not finite, and neither are its references: the weights or the inputs make it so"
        )
    is_cleared = report.bisection is not None and report.bisection.clears
    drift = [
        row
        for row in report.rows
        if (row.is_right or is_cleared)
        and any(each is not None and each > row.tolerance for each in (row.oracle, row.formulas))
    ]
    if drift and report.first_wrong is None:
        notes.append(
            f"from {drift[0].tensor} on, the whole run is further from its references than the tolerance, though each "
            f"step by itself is within it: roundings of {report.dtype} that add up"
        )
    unknown = [name for name in exposed if name not in {row.tensor for row in report.rows}]
    if unknown:
        notes.append(f"not compared, since the formulas do not have them: {', '.join(sorted(unknown)[:6])}")
    return tuple(notes)


def _about_engine(first: Row, report: Report) -> str:
    where = f"The first tensor that leaves its tolerance is {first.tensor}, of {first.culprit}"
    if first.not_finite:
        return f"{where}: it holds {first.not_finite}."
    error = first.alone
    told = f"{where}: {error:.1e} off, {first.tolerance:.0e} allowed."
    oracle, formulas = (
        None if each is None else each > first.tolerance
        for each in (first.oracle_alone, first.formulas_alone)
    )
    if formulas and oracle is False:
        return f"{told} The engine computes what its network says, and the formulas say something else."
    if oracle and formulas is False:
        return (
            f"{told} The engine agrees with the formulas, and not with the network that this version defines: it was "
            f"built by other code."
        )
    if report.bisection is None and not report.weights_that_differ:
        return (
            f"{told} Oracle and formulas agree with each other, and not with the engine: it was built from other "
            f"weights or other code, or the library computes it wrongly; --bisect tells which."
        )
    return told


def _about_bisection(found: Bisection, first: Row | None, report: Report) -> str:
    changed = (
        "Tapping changed nothing: the tapped engine's outputs are the given one's, bit for bit."
        if found.same_bits
        else f"The engine built anew with taps gives other outputs than the given one, by {found.changed_by:.1e} of "
        f"the largest number."
    )
    wrong = next((row for row in found.rows if not row.is_right), None)
    if wrong is None:
        return f"{changed} {_about_right_taps(found, first)}".rstrip()
    library = "TensorRT" if backend.choice().engine == "tensorrt" else "the embedded engine"
    where = f"Built anew with taps, the first wrong sublayer is {wrong.culprit} (at {wrong.tensor}"
    where += f": {wrong.not_finite})." if wrong.not_finite else f", {wrong.alone:.1e} off)."
    if report.network is not None and (wrong.oracle_alone or 0.0) <= wrong.tolerance:
        return f"{changed} {where}"
    if found.failure:
        return f"{changed} {where} Its layers could not be looked at one by one: {found.failure}"
    if found.layer is None:
        return (
            f"{changed} {where} With every tensor inside it as an output no single layer is wrong: what goes wrong is "
            f"how {library} joins layers, or roundings between them."
        )
    row = next(each for each in found.layers if each.layer == found.layer and not each.is_right)
    off = row.not_finite or f"{row.alone:.1e} off what it should give for its own inputs"
    return f"{changed} {where} The first wrong layer in it is {row.layer} ({row.kind}): {off}. {library} is at fault."


def _about_right_taps(found: Bisection, first: Row | None) -> str:
    if first is None:
        if found.same_bits:
            return "Each step by itself is right."
        return "Both are within their tolerances; other code that differs by less is not told from roundings."
    if found.untapped_is_right:
        told = (
            "Built anew from this checkpoint the engine is right, with taps and without: the given one was not built "
            "from this checkpoint by this code."
        )
        if first.point in ("before", "contribution", "after"):
            told += f" It first differs at its tap {first.tensor}."
        return told
    return (
        "Built anew without taps the engine is wrong again, with them it is right: what goes wrong is how the library "
        "joins layers across sublayers, and taps keep it from that; or roundings that add up to more than is allowed."
    )
