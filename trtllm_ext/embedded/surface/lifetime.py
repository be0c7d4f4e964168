"""What TensorRT's Python objects keep from the time when they had to be freed by hand."""

import warnings
from typing import Self


class Lifetime:
    """Objects that may stand in a `with` statement, to no effect: memory goes with the last reference."""

    __slots__ = ()

    def __enter__(self) -> Self:
        warnings.warn(
            f"{type(self).__name__} as a context manager is deprecated and without effect: it is freed with its "
            "last reference.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing to leave; an exception goes on."""

    def __del__(self) -> None:
        """Callable, as code written for old releases does; the object stays usable."""
