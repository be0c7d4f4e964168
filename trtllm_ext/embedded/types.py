"""Dims, permutations and weights, and the aliases of the element types."""

import ctypes
from collections.abc import Iterable, Iterator
from operator import index
from typing import Any, ClassVar, overload

import ml_dtypes
import numpy as np

from trtllm_ext.embedded.enums import DataType

float32 = DataType.FLOAT
float16 = DataType.HALF
bfloat16 = DataType.BF16
int8 = DataType.INT8
int32 = DataType.INT32
int64 = DataType.INT64
uint8 = DataType.UINT8
fp8 = DataType.FP8
int4 = DataType.INT4
fp4 = DataType.FP4
e8m0 = DataType.E8M0

_NUMPY_TYPE: dict[DataType, type] = {
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.INT8: np.int8,
    DataType.INT32: np.int32,
    DataType.INT64: np.int64,
    DataType.BOOL: np.bool_,
    DataType.UINT8: np.uint8,
}

# The types that numpy has with ml_dtypes' help.
_STORAGE_TYPE: dict[DataType, np.dtype[Any]] = {
    **{dtype: np.dtype(numpy_type) for dtype, numpy_type in _NUMPY_TYPE.items()},
    DataType.BF16: np.dtype(ml_dtypes.bfloat16),
    DataType.FP8: np.dtype(ml_dtypes.float8_e4m3fn),
}
_TYPE_OF_STORAGE = {storage: dtype for dtype, storage in _STORAGE_TYPE.items()}


def nptype(trt_type: DataType) -> type:
    """The numpy type that equals `trt_type`.

    Raises TypeError for types that numpy itself lacks, bfloat16 and fp8 among them, as TensorRT does.
    """
    try:
        return _NUMPY_TYPE[trt_type]
    except KeyError:
        raise TypeError(
            f"Could not resolve TensorRT datatype {trt_type} to an equivalent numpy datatype."
        ) from None


def storage_dtype(dtype: DataType) -> np.dtype[Any]:
    """The numpy dtype in which elements of `dtype` are stored; bfloat16 and fp8 are ml_dtypes' types.

    Raises TypeError for 4-bit types and e8m0.
    """
    try:
        return _STORAGE_TYPE[dtype]
    except KeyError:
        raise TypeError(f"{dtype} has no storage type in numpy or ml_dtypes.") from None


def datatype_of(array_dtype: np.dtype[Any]) -> DataType:
    """The DataType of a numpy dtype (bfloat16 and fp8 by ml_dtypes). Raises ValueError if there is none."""
    try:
        return _TYPE_OF_STORAGE[array_dtype]
    except KeyError:
        raise ValueError(
            f"Could not implicitly convert NumPy data type {array_dtype} to TensorRT. Convert the array to one of "
            f"{', '.join(str(known) for known in _TYPE_OF_STORAGE)}."
        ) from None


def index_of(value: Any, what: str) -> int:
    """`value`, if it is an integer. Raises TypeError naming `what`, as TensorRT does, if it is not."""
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{what} must be an int, not {value!r}") from None


def text_of(value: Any, what: str) -> str:
    """`value`, if it is text that can be stored. Raises TypeError naming `what`, as TensorRT does, if it is not."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a str, not {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"{what} must be text that UTF-8 can hold, not {value!r}: {error.reason}") from None
    return value


def volume(iterable: Iterable[int]) -> int:
    """The product of the elements: 1 for none, since a scalar has one element."""
    product = 1
    for element in iterable:
        product *= element
    return product


_ONLY_INTS = frozenset({int})


class Dims:
    """The lengths of a tensor's dimensions, at most 8; -1 where a length is only known at run time.

    Compares with lists and tuples, prints as a tuple, is mutable and so not hashable. `len()` of the dims of a
    tensor whose rank cannot be computed raises ValueError, as TensorRT's does.
    """

    MAX_DIMS: ClassVar[int] = 8
    __slots__ = ("_lengths",)
    __hash__ = None  # type: ignore[assignment]

    _lengths: list[int] | None

    def __init__(self, shape: "Iterable[int] | Dims" = ()) -> None:
        if (
            isinstance(shape, tuple | list)
            and len(shape) <= self.MAX_DIMS
            and set(map(type, shape)) <= _ONLY_INTS
        ):
            self._lengths = list(shape)  # the common case, of which networks have thousands
            return
        if isinstance(shape, str) or not isinstance(shape, Iterable):
            raise TypeError(f"Dims takes a sequence of ints, not {shape!r}")
        if isinstance(shape, Dims) and shape._lengths is None:
            self._lengths = None
            return
        lengths = []
        for length in shape:
            if isinstance(length, float | str) or not hasattr(length, "__index__"):
                raise TypeError(f"Dims takes a sequence of ints, not {list(shape)!r}")
            lengths.append(length.__index__())
        if len(lengths) > self.MAX_DIMS:
            raise ValueError(f"Input length {len(lengths)}. Max expected length is {self.MAX_DIMS}")
        self._lengths = lengths

    @classmethod
    def _invalid(cls) -> "Dims":
        dims = cls()
        dims._lengths = None
        return dims

    def __len__(self) -> int:
        return -1 if self._lengths is None else len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self[:]))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...
    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if self._lengths is None:
            raise ValueError("these dims are not valid: the shape they stand for cannot be computed")
        if isinstance(index, slice):
            return tuple(self._lengths[index])
        try:
            return self._lengths[index]
        except IndexError:
            raise IndexError(f"Out of bounds: index {index} of {len(self._lengths)} dims") from None

    def __setitem__(self, index: int, length: int) -> None:
        if self._lengths is None or not -len(self._lengths) <= index < len(self._lengths):
            raise IndexError(f"Out of bounds: index {index} of {self}")
        self._lengths[index] = length.__index__()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Dims):
            return self._lengths == other._lengths
        if isinstance(other, list | tuple):
            return self._lengths is not None and tuple(self._lengths) == tuple(other)
        return NotImplemented

    def __repr__(self) -> str:
        return "(invalid)" if self._lengths is None else str(tuple(self._lengths))


class Dims2(Dims):
    """Two dims."""

    __slots__ = ()

    def __init__(self, *lengths: Any, **named: Any) -> None:
        super().__init__(_exactly(("dim0", "dim1"), lengths, named))


class DimsHW(Dims2):
    """Height and width."""

    __slots__ = ()

    def __init__(self, *lengths: Any, **named: Any) -> None:
        super().__init__(*_exactly(("h", "w"), lengths, named))

    @property
    def h(self) -> int:
        """The height."""
        return self[0]

    @h.setter
    def h(self, length: int) -> None:
        self[0] = length

    @property
    def w(self) -> int:
        """The width."""
        return self[1]

    @w.setter
    def w(self, length: int) -> None:
        self[1] = length


class Dims3(Dims):
    """Three dims."""

    __slots__ = ()

    def __init__(self, *lengths: Any, **named: Any) -> None:
        super().__init__(_exactly(("dim0", "dim1", "dim2"), lengths, named))


class Dims4(Dims):
    """Four dims."""

    __slots__ = ()

    def __init__(self, *lengths: Any, **named: Any) -> None:
        super().__init__(_exactly(("dim0", "dim1", "dim2", "dim3"), lengths, named))


def _exactly(names: tuple[str, ...], given: tuple[Any, ...], named: dict[str, Any]) -> tuple[int, ...]:
    """What `Dims2()`, `Dims2(1, 2)`, `Dims2(dim0=1, dim1=2)`, `Dims2([1, 2])` and `Dims2(shape=[1, 2])` all mean."""
    if set(named) == {"shape"} and not given:
        given = (named["shape"],)
    elif named:
        given = (*given, *(named.pop(name) for name in names[len(given) :] if name in named))
        if named:
            raise TypeError(
                f"unexpected arguments {', '.join(named)}; there are {', '.join(names)}, or shape"
            )
    if len(given) == 1 and not hasattr(given[0], "__index__"):
        given = tuple(given[0])
    if given and len(given) != len(names):
        raise ValueError(f"Input length {len(given)}. Expected length is {len(names)}")
    return given or (0,) * len(names)


class Permutation:
    """The order of a transpose: output dimension i is input dimension `order[i]`. Always 8 long; the rest is 0."""

    __slots__ = ("_order",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, order: Iterable[int] = ()) -> None:
        given = [axis.__index__() for axis in order]
        if len(given) > Dims.MAX_DIMS:
            raise ValueError(f"Invalid input length {len(given)}. Max expected length is {Dims.MAX_DIMS}")
        self._order = given + [0] * (Dims.MAX_DIMS - len(given))

    def __len__(self) -> int:
        return Dims.MAX_DIMS

    def __iter__(self) -> Iterator[int]:
        return iter(tuple(self._order))

    def __getitem__(self, index: int) -> int:
        return self._order[index]

    def __setitem__(self, index: int, axis: int) -> None:
        self._order[index] = axis.__index__()

    def __eq__(self, other: object) -> bool:
        return self._order == other._order if isinstance(other, Permutation) else NotImplemented

    def __repr__(self) -> str:
        return str(tuple(self._order))


class Weights:
    """A typed buffer that a network borrows: read when an engine is built, so it may be filled until then.

    `Weights(array)` keeps a reference to the array; `Weights(dtype, address, count)` is only an address, and who
    gives it keeps the memory alive; `Weights(dtype)` is empty.
    """

    __slots__ = ("_address", "_array", "_count", "_dtype")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._array: np.ndarray[Any, Any] | None = None
        given = dict(zip(("type", "ptr", "count"), args, strict=False)) | kwargs
        first = given.get("a", given.get("type", DataType.FLOAT))
        if isinstance(first, np.ndarray) and len(given) == 1:
            if not first.flags.c_contiguous:
                raise ValueError(
                    "Could not convert non-contiguous NumPy array to Weights. Please use numpy.ascontiguousarray() "
                    "to fix this."
                )
            self._dtype = datatype_of(first.dtype)
            self._array, self._address, self._count = first, first.ctypes.data, first.size
        elif isinstance(first, DataType) and set(given) in ({"type", "ptr", "count"}, {"type"}, set()):
            self._dtype, self._address, self._count = (
                first,
                int(given.get("ptr", 0)),
                int(given.get("count", 0)),
            )
            if self._count < 0 or (self._count > 0 and self._address == 0):
                raise ValueError(
                    f"Weights of {self._count} elements at address {self._address} cannot be read"
                )
        else:
            raise TypeError(
                "Weights takes (array), (type) or (type, ptr, count), where array is a numpy array and type a "
                f"DataType; it was given {', '.join(type(value).__name__ for value in given.values())}. "
                "Make an array of a list: numpy.asarray(values, numpy.float32)"
            )

    @classmethod
    def _prototype(cls, dtype: DataType, count: int) -> "Weights":
        """Type and count of weights without memory; a count of -1 says that there are no such weights."""
        weights = cls(dtype)
        weights._count = count
        return weights

    @property
    def dtype(self) -> DataType:
        """Type of an element."""
        return self._dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes taken by the elements."""
        return int(self._count * self._dtype.itemsize + 0.5)

    def __len__(self) -> int:
        return self._count

    def numpy(self) -> "np.ndarray[Any, Any] | Weights":
        """A 1-D view of the memory, or these weights where numpy and ml_dtypes lack the type.

        Unlike TensorRT, which gives bfloat16 and fp8 weights back as they are, these come as ml_dtypes' types.
        """
        if self._dtype not in _STORAGE_TYPE:
            return self
        return self._bytes().view(_STORAGE_TYPE[self._dtype])

    def packed_bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A 1-D view of the memory as bytes; 4-bit elements lie two in a byte, the first in the lower half."""
        return self._bytes()

    def _bytes(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A 1-D uint8 view of the memory, without a copy."""
        if self._count == 0:
            return np.empty(0, np.uint8)
        if self._array is not None:
            return self._array.reshape(-1).view(np.uint8)
        return np.ctypeslib.as_array((ctypes.c_uint8 * self.nbytes).from_address(self._address))
