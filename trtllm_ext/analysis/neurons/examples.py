"""Input that fires a neuron, and what it does there to the stream along the direction that it reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtllm_ext import backend
from trtllm_ext.analysis.neurons.activity import Activity, FeedForwardNeurons, Fired
from trtllm_ext.analysis.neurons.neurons import Neuron, ReadFold
from trtllm_ext.analysis.progress import Progress, silent
from trtllm_ext.analysis.running.running import StreamRun
from trtllm_ext.analysis.running.stream_pieces import StreamPieces
from trtllm_ext.checkpoint.lazy import LazyCheckpoint
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.verify.tolerances import Tolerances, error_of, tolerances_of

Array = npt.NDArray[np.float64]
# Tokens whose activations are computed at a time: that many bytes of them in float64.
_ACTIVATION_BYTES = 64 << 20
_STEP = "what fires them"
# Words shown on each side of the token that fires.
_NEIGHBOURS = 4


@dataclass(frozen=True)
class Example:
    """What one neuron did to some input.

    token: the number of the one with the largest activation by magnitude, -1 where no token reached the neuron.
    activation: that one, times the router's weight and 1 / sigma of a norm behind the sublayer.
    text: the token with its neighbours, itself in brackets; None without words.
    before, own, sublayer: the stream's component along the read direction at that token (the unit vector u): u x of the
        stream as it goes into the sum, and what the neuron alone and the whole sublayer add to it.
    gone, gone_with_sublayer: 1 - rms of that component with what was added / rms of it without, over all tokens: how
        much of the stream's norm along the read direction goes away; negative where there is more of it.
    """

    neuron: Neuron
    token: int
    activation: float
    text: str | None
    before: float
    own: float
    sublayer: float
    gone: float
    gone_with_sublayer: float


@dataclass(frozen=True)
class Agreement:
    """The float64 sum over all neurons beside the engine's contribution: the largest error of each part, as a share of
    its largest number. not_compared: tokens of a mixture that roundings may send to another expert."""

    errors: dict[str, float]
    allowed: float
    num_tokens: int
    not_compared: int


class _Watched:
    """One listed neuron, over all pieces."""

    def __init__(self, neuron: Neuron, direction: Array, written: Array) -> None:
        size = np.linalg.norm(direction)
        self.neuron = neuron
        self.direction = direction / size if size > 0 else direction
        self.along = float(written @ self.direction)
        self.squares = np.zeros(3)
        self.best: tuple[int, float, str | None, float, float] = (-1, 0.0, None, 0.0, 0.0)

    def see(
        self, activation: Array, component: Array, added: Array, run: StreamRun, first: int, begin: int
    ) -> None:
        """activation, component (of the stream), added (by the sublayer): (tokens,), from row `begin` of the run."""
        own = activation * self.along
        self.squares += [(each**2).sum() for each in (component, component + own, component + added)]
        row = int(np.abs(activation).argmax()) if len(activation) else 0
        if len(activation) and abs(activation[row]) > abs(self.best[1]):
            text = neighbourhood(run, begin + row)
            values = (float(component[row]), float(added[row]))
            self.best = (first + begin + row, float(activation[row]), text, *values)

    def example(self) -> Example:
        token, activation, text, before, added = self.best
        base, with_own, with_all = np.sqrt(self.squares)
        gone, all_gone = (float(1 - each / base) if base > 0 else 0.0 for each in (with_own, with_all))
        return Example(
            self.neuron, token, activation, text, before, activation * self.along, added, gone, all_gone
        )


def examples(
    neurons: Sequence[Neuron],
    checkpoint: LazyCheckpoint,
    pieces: StreamPieces,
    progress: Progress | None = None,
) -> tuple[list[Example], Agreement]:
    """What fires each of `neurons`, in their order, and how well all neurons of their layers add up.

    checkpoint: of the model that the engine was built from.
    Memory: a piece of the stream, the activations of some of its tokens, pieces of one matrix.
    Raises EngineError where a feed-forward's neurons do not add up to what the engine's gave, within what `verify`
    allows for the model's type, InputError for NaN and infinity in the stream.
    """
    tell = progress or silent
    layers = sorted({neuron.unit.layer for neuron in neurons})
    at = [0, 1]
    forwards = {
        layer: FeedForwardNeurons(checkpoint, layer, lambda: tell(_STEP, at[0], at[1])) for layer in layers
    }
    watched = [_watched(neuron, forwards[neuron.unit.layer]) for neuron in neurons]
    by_layer = {layer: [each for each in watched if each.neuron.unit.layer == layer] for layer in layers}
    parts = {neuron.unit.layer: neuron.unit.part for neuron in neurons}
    tolerances = tolerances_of(pieces.config.dtype, backend.choice().engine, True)
    errors, count, left_out = dict.fromkeys((parts[layer] for layer in layers), 0.0), 0, 0
    for piece in pieces.passes(_STEP, progress):
        at[:] = piece.number, piece.total
        for layer in layers:
            part = parts[layer]
            for begin, fired, added in _fired(forwards[layer], piece.run, part):
                _check_finite(part, fired, added, piece.first + begin)
                compared = fired.margin > tolerances.routing
                left_out += int((~compared).sum())
                error = _error(fired, added, compared)
                errors[part] = max(errors[part], error)
                _check(part, error, tolerances)
                _see(by_layer[layer], forwards[layer], fired, added, piece.run, piece.first, begin)
        count += piece.run.num_tokens
    agreement = Agreement(errors, tolerances.engine, count, left_out)
    return [each.example() for each in watched], agreement


def neighbourhood(run: StreamRun, row: int, most: int = _NEIGHBOURS) -> str | None:
    """The words around a row's token, in its sentence; the token in brackets. None without words."""
    if run.tokens is None:
        return None
    start = max(each for each in run.starts if each <= row)
    end = min(each for each in run.starts if each > row)
    low, high = max(start, row - most), min(end, row + most + 1)
    words = [f"[{word}]" if place == row else word for place, word in enumerate(run.tokens[low:high], low)]
    return " ".join([*(["..."] if low > start else []), *words, *(["..."] if high < end else [])])


def _watched(neuron: Neuron, forward: FeedForwardNeurons) -> _Watched:
    reader = neuron.unit.readers[neuron.unit.judged_by]
    unit = next(each for each in forward.units if each.name == neuron.unit.name)
    row = forward.row(unit, neuron.unit.judged_by, neuron.index)
    written = forward.written(unit, np.array([neuron.index]))[0]
    return _Watched(neuron, ReadFold(reader)(row[None])[0], written)


def _fired(
    forward: FeedForwardNeurons, run: StreamRun, part: str
) -> Iterable[tuple[int, Fired, npt.NDArray[Any]]]:
    """Some of a run's tokens at a time: the first row, what the neurons give, and the engine's contribution."""
    before, added = run.before[part], run.contribution[part]
    rows = max(1, _ACTIVATION_BYTES // (8 * forward.width))
    for begin in range(0, len(before), rows):
        yield begin, forward.fire(before[begin : begin + rows]), added[begin : begin + rows]


def _see(
    watched: Sequence[_Watched],
    forward: FeedForwardNeurons,
    fired: Fired,
    added: npt.NDArray[Any],
    run: StreamRun,
    first: int,
    begin: int,
) -> None:
    activities: dict[str, Activity] = {each.unit.name: each for each in fired.activities}
    if not watched:
        return
    directions = np.stack([each.direction for each in watched], axis=1)
    components = forward.form.residual.skip_scale * (fired.stream @ directions)
    sums = added.astype(np.float64) @ directions
    for place, each in enumerate(watched):
        activation = np.zeros(len(fired.stream))
        activity = activities.get(each.neuron.unit.name)
        if activity is not None:
            tokens = activity.tokens
            values = activity.values[:, each.neuron.index] * activity.factor
            activation[tokens] = values * fired.inverse_sigma[tokens]
        each.see(activation, components[:, place], sums[:, place], run, first, begin)


def _check_finite(part: str, fired: Fired, added: npt.NDArray[Any], first: int) -> None:
    """A NaN would pass for a token that fires nothing. first: the number of the first token among all."""
    finite = np.isfinite(fired.stream).all(1) & np.isfinite(added.astype(np.float64)).all(1)
    if not finite.all():
        raise InputError(
            f"{part} reads or gives NaN or infinity at token {first + int(finite.argmin())}: no neuron can be said to "
            "make it. `trtllm-ext verify --bisect` finds the layer that made it."
        )


def _error(fired: Fired, added: npt.NDArray[Any], compared: npt.NDArray[np.bool_]) -> float:
    error = error_of(added, fired.contribution, compared)
    return 0.0 if np.isnan(error) and not compared.any() else error


def _check(part: str, error: float, tolerances: Tolerances) -> None:
    if not error <= tolerances.engine:
        raise EngineError(
            f"{part}: its neurons, computed from the checkpoint in float64, add up to another contribution than the "
            f"engine's: the largest difference is {error:.1e} of its largest number, expected at most "
            f"{tolerances.engine:.0e}. Give the checkpoint that the engine was built from; if it is, "
            "`trtllm-ext verify` tells what is wrong."
        )
