"""Surgery on a run: one sublayer's contribution scaled, dropped or replaced, a vector added to the stream.

The engine was built with `--surgery`; what is asked of a run is a dict of inputs beside its own:

    surgery = Surgery(session).drop("transformer.layers.3.mlp.contribution")
    session.run({**inputs, **surgery.inputs(inputs)})
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

import numpy as np

from trtllm_ext.builder.surgery import ADD, SCALE
from trtllm_ext.errors import EngineError, InputError
from trtllm_ext.runtime import LeadingSession, Session
from trtllm_ext.runtime.dtypes import numpy_dtype
from trtllm_ext.suggest import did_you_mean, nearest

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Term:
    """What is added at a point. tokens: where; None for all of a run's tokens."""

    values: Array
    tokens: Array | None


class Surgery:
    """What is changed in runs of a session; every method returns the Surgery itself, so that calls can be chained.

    Names are those of taps ('transformer.layers.3.mlp.contribution', '....after'), or patterns of `fnmatch` that stand
    for several. The value used is scale * value + add, computed in float32 at least and rounded to the stream's type;
    a scale of 0 drops NaN and infinity too.
    Raises EngineError for an engine that was built without surgery; the methods raise InputError.
    """

    def __init__(self, session: Session | LeadingSession) -> None:
        self._defaults = session.input_defaults
        self._dtypes = {info.name: numpy_dtype(info.dtype) for info in session.inputs}
        self._scales: dict[str, float] = {}
        self._terms: dict[str, list[_Term]] = {}
        if not self.points:
            raise EngineError(
                "the engine was built without surgery, so no run can change its stream. Build it with `trtllm-ext "
                "build --surgery '*.contribution'`, or with the names that are to be changed."
            )

    @property
    def points(self) -> tuple[str, ...]:
        """The names of what can be changed."""
        return tuple(name.removesuffix(f".{ADD}") for name in self._defaults if name.endswith(f".{ADD}"))

    def named_contributions(self, name: str) -> tuple[str, ...]:
        """The contributions that a name or a pattern stands for. Raises InputError where it is none, or the stream."""
        return self._named(name, SCALE)

    def scale(self, name: str, value: float) -> Self:
        """Multiply a contribution by a finite number."""
        with np.errstate(over="ignore"):
            number = np.float32(_number(name, value))
        if not np.isfinite(number):
            raise InputError(f"the scale of {name} is {value!r}; expected a number that float32 holds.")
        for point in self.named_contributions(name):
            self._scales[point] = float(number)
        return self

    def drop(self, name: str) -> Self:
        """Have a contribution be 0, and forget what was added to it."""
        for point in self.named_contributions(name):
            self._scales[point] = 0.0
            self._terms.pop(point, None)
        return self

    def replace(self, name: str, values: Any) -> Self:
        """Put values in a contribution's place: [hidden] for all tokens, or one row a token as the run has them."""
        points = self.named_contributions(name)
        return self.drop(name)._add(points, values, None)

    def add(self, name: str, vector: Any, tokens: Any = None) -> Self:
        """Add to a value; what was added to it before stays.

        vector: [hidden], or one row a token as the run has them: [num_tokens, hidden] or [batch, seq, hidden].
        tokens: where to add a vector. Whole numbers: of packed tokens, or positions in every sentence, padding counted;
            or a boolean for each token, [num_tokens] or [batch, seq]. None for all.
        """
        chosen = None if tokens is None else np.asarray(tokens)
        if chosen is not None and chosen.dtype.kind not in "iub":
            raise InputError(
                f"tokens of {name} are {chosen.dtype}; expected whole numbers, or a boolean a token."
            )
        return self._add(self._named(name, ADD), vector, chosen)

    def clear(self) -> Self:
        """Change nothing any more."""
        self._scales.clear()
        self._terms.clear()
        return self

    def inputs(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """The inputs to run beside `inputs`, whose shapes say how many tokens there are; of what is changed only."""
        shapes = {name: tuple(value.shape) for name, value in inputs.items()}
        found = {f"{point}.{SCALE}": np.array([scale], np.float32) for point, scale in self._scales.items()}
        for point, terms in self._terms.items():
            name = f"{point}.{ADD}"
            for dim in self._defaults[name].shape:
                if isinstance(dim, tuple) and len(shapes.get(dim[0], ())) <= dim[1]:
                    raise InputError(f"input {dim[0]!r}, whose shape says how long {name!r} is, is missing.")
            found[name] = self._sum(name, terms, self._defaults[name].shape_beside(shapes))
        return found

    def _add(self, points: Iterable[str], values: Any, tokens: Array | None) -> Self:
        array = np.asarray(values)
        for point in points:
            shape = self._defaults[f"{point}.{ADD}"].shape
            sizes = tuple(dim for dim in shape if isinstance(dim, int))
            fits = array.shape in (sizes, sizes[-1:]) or (
                tokens is None and array.ndim == len(shape) and array.shape[-len(sizes) :] == sizes
            )
            if not fits or not _is_real(array):
                rows = (
                    "" if tokens is not None else f", or {len(shape)} dimensions with a row of them a token"
                )
                raise InputError(
                    f"what is added to {point} is {array.dtype} {array.shape}; expected real numbers {sizes}{rows}."
                )
            self._terms.setdefault(point, []).append(_Term(array, tokens))
        return self

    def _sum(self, name: str, terms: list[_Term], shape: tuple[int, ...]) -> Array:
        total = np.zeros(shape)
        for term in terms:
            values = term.values.astype(np.float64)
            if term.values.ndim == len(shape) and term.values.shape != shape:
                raise InputError(
                    f"what is added to {name.removesuffix(f'.{ADD}')} has shape {values.shape}; this run's is {shape}."
                )
            if term.tokens is None:
                total += values
            else:
                sizes = sum(isinstance(dim, int) for dim in self._defaults[name].shape)
                total[_chosen(name, term.tokens, shape[: len(shape) - sizes])] += values
        with np.errstate(over="ignore"):
            rounded: Array = total.astype(self._dtypes[name])
        if not np.isfinite(rounded.astype(np.float32)).all():
            raise InputError(
                f"input {name!r} would hold NaN or infinity in {rounded.dtype}; add finite numbers within its range."
            )
        return rounded

    def _named(self, name: str, what: str) -> tuple[str, ...]:
        """The points that a name or a pattern stands for, and that can be changed so."""
        points = [point for point in self.points if point == name or fnmatchcase(point, name)]
        if not points:
            ends = sorted({f"*.{point.rpartition('.')[2]}" for point in self.points})
            hint = did_you_mean(name, [*ends, *self.points]) or nearest(name, ends)
            raise InputError(f"{name!r} is nothing that this engine's runs may change. {hint}")
        for point in points:
            if f"{point}.{what}" not in self._defaults:
                raise InputError(
                    f"{point} is the stream, which can be added to but not scaled, dropped or replaced; a contribution "
                    f"can."
                )
        return tuple(points)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"the scale of {name} is {value!r}; expected a number.") from None


def _is_real(array: Array) -> bool:
    return array.dtype.kind in "iuf" or array.dtype.name == "bfloat16"


def _chosen(name: str, tokens: Array, lengths: tuple[int, ...]) -> Array:
    """A boolean for each token of a run."""
    if tokens.dtype.kind == "b":
        if tokens.shape != lengths:
            raise InputError(
                f"tokens of {name!r} have shape {tokens.shape}; this run's tokens are {lengths}."
            )
        return tokens
    count = lengths[-1]
    if tokens.size and not (-count <= tokens.min() and tokens.max() < count):
        raise InputError(
            f"tokens of {name!r} are {tokens.min()} to {tokens.max()}, and this run has {count}, from 0 on."
        )
    mask = np.zeros(lengths, bool)
    mask[..., tokens.astype(np.int64)] = True
    return mask
