"""The Gram matrices of what reads and what writes the stream, made slice by slice, and what a norm does to them.

Of a reader R (out_features, hidden) it is R^T R, of a writer W (hidden, in_features) W W^T: both (hidden, hidden), so
that norms of R W follow without R W itself. Experts of one role count as one matrix, their rows or columns side by
side: Gram matrices add.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trtllm_ext.analysis.stream_map.stored import Matrix, Vector
from trtllm_ext.analysis.stream_map.stream_map import Part, Reader, StreamMap, Writer
from trtllm_ext.checkpoint.contract import NormContract
from trtllm_ext.errors import CheckpointError

Array = npt.NDArray[np.floating]
Tick = Callable[[], None]

# A matrix beyond that is read in slices.
SLICE_BYTES = 256 << 20
# Rows of a product: few enough for the copy in the Gram matrix's type to be small, many enough for full speed.
CHUNK = 1024
# Up to that hidden size Gram matrices are float64: 2 MB each at most.
FLOAT64_HIDDEN = 512


@dataclass(frozen=True)
class Unit:
    """A reader or writer as it is paired: those of one part and role.

    name: 'transformer.layers.3.mlp.fc'. index: of the part in the map.
    """

    name: str
    index: int
    part: Part
    members: tuple[Reader, ...] | tuple[Writer, ...]

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return tuple(member.matrix for member in self.members)

    @property
    def rows(self) -> int:
        """The size beside the hidden one."""
        writes = isinstance(self.members[0], Writer)
        return sum(matrix.shape[1 if writes else 0] for matrix in self.matrices)


def writers_of(found: StreamMap) -> list[Unit]:
    return list(_units(found, lambda part: part.writers))


def readers_of(found: StreamMap) -> list[Unit]:
    return list(_units(found, lambda part: part.readers))


def _units(found: StreamMap, members: Callable[[Part], Sequence[Reader | Writer]]) -> Iterator[Unit]:
    for index, part in enumerate(found.parts):
        by_role: dict[str, list[Reader | Writer]] = {}
        for member in members(part):
            by_role.setdefault(re.sub(r"\[\d+\]$", "", member.role), []).append(member)
        for role, group in by_role.items():
            yield Unit(f"{part.name}.{role}", index, part, tuple(group))  # type: ignore[arg-type]


def gram_dtype(hidden_size: int) -> np.dtype:
    return np.dtype(np.float64 if hidden_size <= FLOAT64_HIDDEN else np.float32)


def gram(unit: Unit, hidden_size: int, tick: Tick = lambda: None) -> Array:
    """R^T R of a reader with its norm's gain and centering, W W^T of a writer with all that lies behind W.

    tick: called after every CHUNK rows.
    Raises CheckpointError where it holds NaN or infinity.
    """
    total: Array = np.zeros((hidden_size, hidden_size), gram_dtype(hidden_size))
    for member in unit.members:
        writes = isinstance(member, Writer)
        for part in slices(member.matrix, 1 if writes else 0):
            add_products(total, part.T if writes else part, tick)
    first = unit.members[0]
    if isinstance(first, Writer):
        through_norm(total, first.norm, first.gain, reads=False)
        if first.gate is not None:
            _scale(total, np.broadcast_to(first.gate(), hidden_size))
    else:
        through_norm(total, first.norm, first.gain, reads=True)
    total *= first.scale**2
    if not np.isfinite(np.trace(total)):  # squared lengths: whatever is not finite shows in one of them
        names = ", ".join(matrix.name for matrix in unit.matrices[:4])
        raise CheckpointError(
            f"{names}: the weights, or those of the norm and gate beside them, hold NaN or infinity (or numbers whose "
            f"squares exceed {total.dtype.name}), so that no norm of a product is defined. Give intact weights."
        )
    return total


def slices(matrix: Matrix, axis: int) -> Iterator[Array]:
    """The matrix in parts along an axis, each of at most SLICE_BYTES in float32."""
    size, other = matrix.shape[axis], matrix.shape[1 - axis]
    step = max(1, SLICE_BYTES // (4 * other))
    if step >= size or not matrix.sliceable:
        yield matrix.load()
        return
    for begin in range(0, size, step):
        yield matrix.part(axis, begin, min(begin + step, size)).load()


def add_products(total: Array, values: Array, tick: Tick = lambda: None) -> None:
    """total += values^T values, (rows, hidden), in the type of total; a symmetric product where BLAS has one."""
    for begin in range(0, len(values), CHUNK):
        chunk = values[begin : begin + CHUNK].astype(total.dtype)
        total += chunk.T @ chunk
        tick()


def through_norm(total: Array, norm: NormContract | None, gain: Vector | None, *, reads: bool) -> None:
    """What a norm makes of a Gram matrix, in place, up to the division by the token's own size.

    The norm is diag(gain), after the subtraction of the mean where it is a layer_norm: of a map N a reader's Gram
    matrix becomes N^T G N, a writer's N G N^T.
    """
    if norm is None:
        return
    centers = norm.kind == "layer_norm"
    if centers and not reads:
        _center(total)
    if gain is not None:
        _scale(total, gain())
    if centers and reads:
        _center(total)


def _scale(total: Array, gain: Array) -> None:
    gain = gain.astype(total.dtype)
    total *= gain
    total *= gain[:, None]


def _center(total: Array) -> None:
    """(I - 11^T / hidden) G (I - 11^T / hidden)."""
    total -= total.mean(0)
    total -= total.mean(1)[:, None]
