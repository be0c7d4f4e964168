"""Points of a model: values that follow from earlier ones, each by a formula of its own.

A model is a list of them in the order of execution. Evaluated from the inputs they are the reference of a whole run.
Evaluated with an engine's own values in place of earlier points they tell what that one step should have given: an
error that the step itself has made, and not what it was handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtllm_ext.verify.formulas.feed_forward import Array


@dataclass(frozen=True)
class Point:
    """name: of the tensor, a tap's where it can be tapped. sublayer: the module path that it belongs to.

    sources: names of earlier points and of inputs, the arguments of `formula`.
    margin: of the same arguments, how far each token is from taking another way through the model (another expert),
        as a share of its values; shape (...) of a value (..., hidden).
    is_copy: whether it is its only source under another name.
    """

    name: str
    sublayer: str
    sources: tuple[str, ...]
    formula: Callable[..., Array]
    margin: Callable[..., Array] | None = None
    is_copy: bool = False


@dataclass(frozen=True)
class Evaluation:
    """values: by point. margins: by point, the least of each token on the way there; absent where no point has one."""

    values: dict[str, Array] = field(default_factory=dict)
    margins: dict[str, Array] = field(default_factory=dict)


def evaluate(
    points: Sequence[Point], inputs: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Evaluation:
    """Every point's value by its formula, in float64.

    given: values to go on with in place of those computed, by point; what is computed for such a point is still told.
    """
    result = Evaluation()
    taken = {name: _wide(value) for name, value in inputs.items()}
    margins: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        for point in points:
            arguments = [taken[name] for name in point.sources]
            value = _operated(point.name, point.formula(*arguments), taken)
            own = [margins[name] for name in point.sources if name in margins]
            if point.margin is not None:
                own.append(point.margin(*arguments))
            result.values[point.name] = value
            if own:
                result.margins[point.name] = np.minimum.reduce(own)
            if given is not None and point.name in given:
                taken[point.name] = _wide(given[point.name])
            else:
                taken[point.name] = value
                if own:
                    margins[point.name] = result.margins[point.name]
    return result


def _operated(name: str, value: Array, inputs: Mapping[str, Array]) -> Array:
    """A point's value as the surgery inputs of a run, if any, change it: scale * value + add, and 0 times NaN is 0."""
    if (scale := inputs.get(f"{name}.scale")) is not None:
        value = np.where(scale == 0, 0.0, scale * value)
    return value if (add := inputs.get(f"{name}.add")) is None else value + add


def _wide(value: Any) -> Array:
    array = np.asarray(value)
    return array if array.dtype.kind in "iub" else array.astype(np.float64)
