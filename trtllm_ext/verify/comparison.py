"""An engine's tensors beside their references, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from trtllm_ext.oracle import OracleError
from trtllm_ext.verify.formulas import Evaluation, evaluate
from trtllm_ext.verify.references import Array, References
from trtllm_ext.verify.report import Row
from trtllm_ext.verify.tolerances import error_of, growth_of


def compared(exposed: Mapping[str, Any], references: References) -> tuple[Row, ...]:
    """A row for each tensor that the engine exposes and the model knows, in the order of execution.

    Each is compared with what the whole model gives from the inputs, and with what its last step alone gives from the
    engine's own tensors before it.
    """
    order, tapped = references.order(), references.tapped
    alone = evaluate(references.points, references.inputs, exposed)
    rows, before = [], dict[str, Any]()
    for name, (sublayer, point) in order.items():
        if name not in exposed:
            continue
        value = np.asarray(exposed[name])
        growth = growth_of(_num_sublayers(name, references, exposed))
        row = _row(name, sublayer, point, value, before, alone, references, growth)
        rows.append(replace(row, made_by=_maker(name, references, exposed)))
        if name in tapped:
            before[name] = value
    return tuple(rows)


def _maker(name: str, references: References, exposed: Mapping[str, Any]) -> str:
    """The module that a tensor's last step is: of a copy, the one whose result it is, if that can be told."""
    points = {point.name: point for point in references.points}
    own = points[name]
    source = points.get(own.sources[0])
    if own.is_copy and source is not None and source.name not in exposed:
        known = (each in exposed or each in references.inputs for each in source.sources)
        if all(known):
            return source.sublayer
    return own.sublayer


def _num_sublayers(name: str, references: References, exposed: Mapping[str, Any]) -> int:
    """How many sublayers have worked on a tensor since those before it that the engine exposes."""
    points = {point.name: point for point in references.points}
    found, seen, pending = set[str](), set[str](), [name]
    while pending:
        point = points.get(pending.pop())
        if point is None or point.name in seen:  # an input, or another way to the same
            continue
        seen.add(point.name)
        if not point.is_copy:
            found.add(point.sublayer)
        pending += [each for each in point.sources if each not in exposed]
    return max(1, len(found))


def not_finite(value: Any, reference: Any) -> str:
    """What there is of NaN and infinity where the reference has none: counts, and where the first one is."""
    wide = np.asarray(value).astype(np.float64)
    other = np.asarray(reference).astype(np.float64)
    wrong = ~np.isfinite(wide)
    if other.shape == wide.shape:
        wrong &= np.isfinite(other)
    if not wrong.any():
        return ""
    first = tuple(int(each) for each in np.argwhere(wrong)[0])
    nans = int(np.isnan(wide[wrong]).sum())
    infinite = int(wrong.sum()) - nans
    kinds = [f"{count} {name}" for count, name in ((nans, "NaN"), (infinite, "infinite")) if count]
    text = f"{' and '.join(kinds)} of {wide.size} elements, the first at {list(first)}"
    if other.shape == wide.shape:
        text += f", where {other[first]:.4g} is expected"
    return text


def _row(
    name: str,
    sublayer: str,
    point: str,
    value: Array,
    before: Mapping[str, Any],
    alone: Evaluation,
    references: References,
    growth: float,
) -> Row:
    """growth: of what is allowed, by what lies between the tensor and those before it."""
    tolerances, whole = references.tolerances, references.by_formulas
    counted = references.counted(whole, name, tolerances.engine)
    counted_alone = references.counted(alone, name, growth * tolerances.routing)
    oracle = oracle_alone = None
    if name in references.by_oracle:
        oracle = error_of(value, references.by_oracle[name], counted)
        try:
            oracle_alone = error_of(value, references.oracle([name], before)[name], counted_alone)
        except OracleError:  # the engine's own values take the network where it has no meaning
            oracle_alone = None
    return Row(
        name,
        sublayer,
        point,
        growth * tolerances.engine,
        oracle,
        error_of(value, whole.values[name], counted),
        oracle_alone,
        error_of(value, alone.values[name], counted_alone),
        not_finite(value, alone.values[name]),
        bool(np.isfinite(value.astype(np.float64)).all()),
        0 if name not in alone.margins else int((alone.margins[name] <= growth * tolerances.routing).sum()),
    )
