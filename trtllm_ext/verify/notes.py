"""What a report says beside its verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trtllm_ext import backend
from trtllm_ext.verify.references import References
from trtllm_ext.verify.report import Report


def notes_of(report: Report, references: References, exposed: Mapping[str, Any]) -> tuple[str, ...]:
    """What else there is to know. exposed: the engine's tensors by name."""
    notes = []
    if report.weights == "own":
        notes.append(
            "no checkpoint was given, so the references are computed from the weights that the engine holds: a wrong "
            "weight is not seen"
        )
    if report.weights == "unknown":
        why = "does not give its weights back"
        if backend.choice().engine == "embedded":
            why = "holds its weights as another version of this library"
        notes.append(
            f"the engine {why}, so they cannot be compared with the checkpoint's: one that differs by so little that "
            f"numbers stay within {references.tolerances.engine:.0e} is not seen"
        )
    for layer in references.opaque[:4]:
        what = f"plugin {layer.plugin!r}" if layer.plugin else f"a layer of kind {layer.kind}"
        fed = next(iter(references.fed), None)
        on = "it is not told there" if fed is None else f"it goes on from the engine's own {fed}"
        notes.append(f"what {layer.layer} ({what}) computes is not known to the oracle; {on}")
    taps = [row for row in report.rows if row.point in ("before", "contribution", "after")]
    if not taps and report.bisection is None:
        notes.append(
            "the engine has no taps, so only its outputs can be compared; --bisect builds it anew with taps, to look "
            "inside"
        )
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
