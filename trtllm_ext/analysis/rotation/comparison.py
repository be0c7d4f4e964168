"""An original and its rotation side by side: outliers of weights and activations, errors of quantised sublayers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.rotation.outliers import Outliers, outliers
from trtllm_ext.analysis.rotation.schemes import SCHEMES, Scheme
from trtllm_ext.analysis.rotation.transform import StreamTransform
from trtllm_ext.analysis.rotation.walking import Call, Walk
from trtllm_ext.analysis.stream_map.stream_map import Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.errors import AnalysisError, CheckpointError

Wide = npt.NDArray[np.float64]

# What the rounding of the rotated weights may change of the output, as a share of it, for each layer and by the type;
# beyond, the two are not one network. Twenty units of rounding, and float32's for what is not rounded at all.
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_UNITS = 20.0


@dataclass(frozen=True)
class WeightRow:
    """The matrices of one sublayer on one side of it. side: 'reads' or 'writes'.

    outliers: of the worst matrix by each measure, over channels of the stream.
    errors: by scheme, the rounding of the matrices as a share of their norm (Frobenius).
    """

    part: str
    side: str
    outliers: Outliers
    errors: dict[str, float]


@dataclass(frozen=True)
class SublayerRow:
    """One sublayer on the given input. stream, read: outliers before and behind its norm, over channels.

    errors: by scheme, of its output, |quantised - exact| / |exact| over all tokens.
    """

    name: str
    layer: int
    stream: Outliers
    read: Outliers
    errors: dict[str, float]


@dataclass
class Side:
    """What is measured of one of the two."""

    weights: list[WeightRow] = field(default_factory=list)
    sublayers: list[SublayerRow] = field(default_factory=list)
    output: Wide | None = None


@dataclass(frozen=True)
class Comparison:
    """difference: of the rotated network's output, its weights as written, from the original's, as a share of the
    largest magnitude; None without input."""

    original: Side
    rotated: Side
    difference: float | None = None


def compare_weights(original: StreamMap, rotated: StreamMap, progress: Progress | None = None) -> Comparison:
    """Both maps' matrices, one at a time. Memory: one matrix in float64, and its quantised form."""
    tell = progress or silent
    sides = []
    for label, each in (("original", original), ("rotated", rotated)):
        parts = [part for part in each.parts if part.readers or part.writers]
        side = Side()
        for number, part in enumerate(parts):
            tell(f"weights of the {label}", number, len(parts))
            side.weights += _weight_rows(part)
        sides.append(side)
    return Comparison(original=sides[0], rotated=sides[1])


def compare_alone(original: StreamMap, rotation: Wide, progress: Progress | None = None) -> Comparison:
    """What a rotation would make of every matrix by itself, gains of norms folded: of any form, also of one refused.

    Raises CheckpointError for NaN and infinity in a matrix, as `compare_weights` does.
    rotation: orthogonal, (hidden, hidden). Memory: a matrix, what becomes of it, and its quantised form in float64.
    """
    tell = progress or silent
    parts = [part for part in original.parts if part.readers or part.writers]
    before, after = Side(), Side()
    for number, part in enumerate(parts):
        tell("weights", number, len(parts))
        before.weights += _weight_rows(part)
        after.weights += _weight_rows(part, rotation)
    return Comparison(before, after)


def _weight_rows(part: Part, rotation: Wide | None = None) -> Iterator[WeightRow]:
    for side, maps in (("reads", part.readers), ("writes", part.writers)):
        found, squares, lost = [], 0.0, dict.fromkeys((scheme.name for scheme in _WEIGHT_SCHEMES), 0.0)
        for each in maps:
            values = each.matrix.load().astype(np.float64)
            if not np.isfinite(values).all():
                raise CheckpointError(
                    f"{each.matrix.name} holds NaN or infinity, for which there is no scale. Give intact weights."
                )
            if rotation is not None:
                values = _turned(values, each, rotation)
            found.append(outliers(values if side == "reads" else values.T))
            squares += float((values**2).sum())
            for scheme in _WEIGHT_SCHEMES:
                lost[scheme.name] += float(((scheme.weights(values) - values) ** 2).sum())
        if found:
            errors = {name: (total / squares) ** 0.5 if squares else 0.0 for name, total in lost.items()}
            yield WeightRow(part.name, side, _worst(found), errors)


def _turned(values: Wide, of: Reader | Writer, rotation: Wide) -> Wide:
    if isinstance(of, Writer):
        return np.asarray(rotation.T @ values)
    gain = of.gain
    return np.asarray((values if gain is None else values * gain()) @ rotation)


# Of those that round weights alike, one.
_WEIGHT_SCHEMES = tuple(scheme for scheme in SCHEMES if scheme.name != "int8 weights")


def _worst(found: list[Outliers]) -> Outliers:
    return Outliers(*(max(getattr(each, name) for each in found) for name in Outliers.__dataclass_fields__))


def compare_on_input(
    before: Comparison,
    original: str | os.PathLike[str],
    rotated: str | os.PathLike[str],
    transform: StreamTransform,
    inputs: Mapping[str, npt.NDArray],
    *,
    schemes: Iterable[Scheme] = SCHEMES,
    progress: Progress | None = None,
) -> Comparison:
    """`before` with every sublayer of two checkpoint directories on one input.

    inputs: as the original takes them; the rotated network gets what `transform` makes of them. Each network's own
    stream, exact in float64, is what its sublayers are tried on: errors do not add up over layers.
    Raises InputError for inputs that do not fit, AnalysisError where the outputs differ by more than rounding.
    """
    tell = progress or silent
    moved = {
        name: transform.into(value) if value.dtype.kind == "f" else value for name, value in inputs.items()
    }
    chosen = tuple(schemes)
    for label, path, given, side in (
        ("original", original, inputs, before.original),
        ("rotated", rotated, moved, before.rotated),
    ):
        walk = Walk(LazyCheckpoint(path), given)
        total = walk.config.num_hidden_layers
        for call in walk.calls():
            tell(f"sublayers of the {label}", call.layer, total)
            side.sublayers.append(_sublayer_row(call, chosen))
        side.output = walk.output
    final = LazyCheckpoint(original).config.contract.final_norm
    difference = _difference(before, transform, final is not None)
    config = LazyCheckpoint(rotated).config
    limit = _UNITS * _ROUNDING[config.dtype] * (1 + config.num_hidden_layers)
    if not difference <= limit and config.contract.feed_forward.mixture is None:
        raise AnalysisError(
            f"the rotated network's output differs from the original's by {difference:.3g} of its largest value; "
            f"rounding to {config.dtype} may account for {limit:.3g}. Rotate again with --dtype float32, and report "
            "it if that does not help."
        )
    return Comparison(before.original, before.rotated, difference)


def _sublayer_row(call: Call, schemes: tuple[Scheme, ...]) -> SublayerRow:
    length = float(np.linalg.norm(call.exact))
    errors = {
        scheme.name: float(np.linalg.norm(call.quantised(scheme) - call.exact)) / length if length else 0.0
        for scheme in schemes
    }
    return SublayerRow(call.name, call.layer, outliers(call.stream), outliers(call.read), errors)


def _difference(compared: Comparison, transform: StreamTransform, has_final_norm: bool) -> float:
    expected, got = compared.original.output, compared.rotated.output
    assert expected is not None and got is not None
    if transform.centre and not has_final_norm:
        expected = expected - expected.mean(-1, keepdims=True)
    return float(np.abs(transform.back(got) - expected).max() / max(np.abs(expected).max(), 1e-300))
