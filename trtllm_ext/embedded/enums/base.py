"""The base of the enumerations."""

import enum


class NativeEnum(enum.Enum):
    """An enumeration that behaves as TensorRT's native ones do.

    A member prints as `LayerType.SHAPE`, equals nothing but itself (in particular no number), converts with
    `int()`, hashes as its number, and serves as an index.
    """

    def __int__(self) -> int:
        return int(self.value)

    def __index__(self) -> int:
        return int(self.value)

    def __hash__(self) -> int:
        return hash(self._value_)
