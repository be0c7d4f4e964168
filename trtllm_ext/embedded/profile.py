"""Optimization profiles: which shapes, and which values of shape inputs, an engine is built for."""

from collections.abc import Iterable, Sequence
from operator import index

from trtllm_ext.embedded.plan import Range
from trtllm_ext.embedded.types import Dims


class IOptimizationProfile:
    """Ranges of the shapes of dynamic inputs and of the values of shape inputs.

    Made by `Builder.create_optimization_profile()`.
    """

    __slots__ = ("__weakref__", "_extra_memory_target", "_shapes", "_values")

    def __init__(self) -> None:
        self._shapes: dict[str, Range] = {}
        self._values: dict[str, Range] = {}
        self._extra_memory_target = 1.0

    def set_shape(
        self, input: str, min: Sequence[int] | Dims, opt: Sequence[int] | Dims, max: Sequence[int] | Dims
    ) -> None:
        """Set the range of an input's shape.

        Raises ValueError unless the three have one length and 0 <= min <= opt <= max holds in every dimension, and
        TypeError for lengths that are no integers of 64 bits.
        """
        given = _range(f"set_shape({input!r})", min, opt, max)
        if any(length < 0 for length in given[0]):
            raise ValueError(f"set_shape({input!r}): min={given[0]} has a negative length.")
        self._shapes[input] = given

    def get_shape(self, input: str) -> list[Dims]:
        """[min, opt, max] as set by `set_shape()`, or an empty list."""
        return [Dims(shape) for shape in self._shapes.get(input, ())]

    def set_shape_input(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """Set the range of a shape input's values, element by element.

        Raises ValueError unless the three have one length and min <= opt <= max holds for every element, and
        TypeError for elements that are no integers of 64 bits.
        """
        self._values[input] = _range(f"set_shape_input({input!r})", min, opt, max)

    def get_shape_input(self, input: str) -> list[list[int]]:
        """[min, opt, max] as set by `set_shape_input()`, or an empty list."""
        return [list(values) for values in self._values.get(input, ())]

    @property
    def extra_memory_target(self) -> float:
        """How much more memory this profile may take, from 0 to 1; kept, without effect."""
        return self._extra_memory_target

    @extra_memory_target.setter
    def extra_memory_target(self, fraction: float) -> None:
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"extra_memory_target={fraction} is outside [0, 1].")
        self._extra_memory_target = fraction

    def __bool__(self) -> bool:
        """Whether the profile can be given to a builder config: what is set was checked when it was set."""
        return True


def _range(where: str, low: Iterable[int], opt: Iterable[int], high: Iterable[int]) -> Range:
    minimum, optimum, maximum = (_integers(where, bound) for bound in (low, opt, high))
    if not len(minimum) == len(optimum) == len(maximum):
        raise ValueError(
            f"{where}: min={minimum}, opt={optimum} and max={maximum} do not have the same number of dimensions."
        )
    if not all(a <= b <= c for a, b, c in zip(minimum, optimum, maximum, strict=True)):
        raise ValueError(
            f"{where}: min={minimum} <= opt={optimum} <= max={maximum} does not hold in every dimension."
        )
    return minimum, optimum, maximum


def _integers(where: str, bound: Iterable[int]) -> tuple[int, ...]:
    try:
        given = tuple(index(element) for element in bound)
    except TypeError:
        raise TypeError(f"{where}: {bound!r} is not a sequence of integers.") from None
    if not all(-(2**63) <= element < 2**63 for element in given):
        raise TypeError(f"{where}: {given} has an element of more than 64 bits.")
    return given
