"""DimRange: the sizes that one optimization profile allows for an input."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from trtllm_ext.errors import GraphError


class DimRange:
    """What one optimization profile allows for an input: `min`, `opt` and `max` sizes by dimension, and their names.

        DimRange([16, (1, 8, 32)], ["batch", "tokens"])

    shape: for each dimension a size or (min, opt, max). names: one a dimension.
    Equal when names and sizes are. Raises GraphError for another number of names, or a range out of order.
    """

    def __init__(self, shape: Sequence[Any], names: Sequence[str]) -> None:
        if len(names) != len(shape):
            raise GraphError(
                f"a DimRange has a name for each dimension, got {list(names)} for {list(shape)}."
            )
        ranges = [_range(f"dimension {name!r}", item) for name, item in zip(names, shape, strict=True)]
        self.min: list[int] = [each[0] for each in ranges]
        self.opt: list[int] = [each[1] for each in ranges]
        self.max: list[int] = [each[2] for each in ranges]
        self.dimension_names: list[str] = list(names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DimRange) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        sizes = zip(self.min, self.opt, self.max, strict=True)
        items = [low if low == high else (low, best, high) for low, best, high in sizes]
        return f"DimRange({items}, {self.dimension_names})"

    def _key(self) -> tuple[tuple[Any, ...], ...]:
        return tuple(self.min), tuple(self.opt), tuple(self.max), tuple(self.dimension_names)


def profiles_of(
    name: str, shape: tuple[int, ...], dim_range: "OrderedDict[str, list[Any]] | None"
) -> list[DimRange]:
    """One DimRange for each optimization profile that the `dim_range` of the input `name` gives.

    Raises GraphError when the ranges do not fit the shape or each other.
    """
    if dim_range is None:
        return []
    if not isinstance(dim_range, OrderedDict) or not dim_range:
        raise GraphError(
            f"input {name!r}: dim_range is an OrderedDict of one entry a dimension, got {type(dim_range).__name__} "
            f"{dim_range!r}."
        )
    if len(dim_range) != len(shape):
        raise GraphError(
            f"input {name!r}: dim_range has {len(dim_range)} entries ({', '.join(dim_range)}), the shape "
            f"{shape} has {len(shape)} dimensions; give one entry a dimension."
        )
    for dim, items in dim_range.items():
        if not isinstance(items, list | tuple):
            raise GraphError(
                f"input {name!r}, dimension {dim!r}: the ranges {items!r} are not a list of one for each optimization "
                "profile."
            )
    counts = {dim: len(items) for dim, items in dim_range.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise GraphError(
            f"input {name!r}: every dimension has one range for each optimization profile, got {counts} ranges."
        )
    return [
        DimRange(
            [
                _checked(name, dim, size, dim_range[dim][i])
                for dim, size in zip(dim_range, shape, strict=True)
            ],
            list(dim_range),
        )
        for i in range(next(iter(counts.values())))
    ]


def _checked(name: str, dim: str, size: int, item: Any) -> tuple[int, int, int]:
    """The range of one dimension, which agrees with its size in the shape."""
    values = _range(f"input {name!r}, dimension {dim!r}", item)
    if size != -1 and set(values) != {size}:
        raise GraphError(
            f"input {name!r}, dimension {dim!r}: the shape says {size}, the range says {item!r}; write -1 in the shape "
            "for a dimension that varies."
        )
    return values


def _range(where: str, item: Any) -> tuple[int, int, int]:
    values = tuple(item) if isinstance(item, Iterable) else (item,) * 3
    whole = all(isinstance(value, Integral) and not isinstance(value, bool) for value in values)
    if not whole or len(values) != 3 or not 0 <= values[0] <= values[1] <= values[2]:
        raise GraphError(
            f"{where}: the range {item!r} is not a size or [min, opt, max] of whole numbers with "
            "0 <= min <= opt <= max."
        )
    low, best, high = (int(value) for value in values)
    return low, best, high
