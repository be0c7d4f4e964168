"""Type inference: strongly typed networks take no mixture, weakly typed ones compute mixed floats in float32."""

from collections.abc import Collection, Sequence

from trtllm_ext.embedded.enums import DataType
from trtllm_ext.embedded.rules.known import FLOATS, INDICES, Known, OperandError


def common_type(inputs: Sequence[Known], strongly_typed: bool, what: str) -> DataType:
    """The type in which a layer takes its inputs.

    Raises OperandError if they differ; in a weakly typed network only if they are not all floating point.
    """
    types = list(dict.fromkeys(known.dtype for known in inputs))
    if len(types) == 1:
        return types[0]
    if not strongly_typed and all(dtype in FLOATS for dtype in types):
        return DataType.FLOAT
    names = " and ".join(dtype.name for dtype in types)
    mode = "a strongly typed network converts nothing by itself" if strongly_typed else "only floats mix"
    raise OperandError(f"{what} has incompatible input types {names}; {mode}. Insert a cast.")


def require_type(dtype: DataType, allowed: Collection[DataType], what: str) -> None:
    """Raises OperandError unless `dtype` is among `allowed`."""
    if dtype not in allowed:
        names = ", ".join(sorted(one.name for one in allowed))
        raise OperandError(f"{what} does not take {dtype.name}; it takes {names}. Insert a cast.")


def require_indices(known: Known, what: str) -> None:
    """Raises OperandError unless the tensor has integers fit for shapes and positions."""
    require_type(known.dtype, INDICES, what)
