"""The algorithms of one group of MPI ranks: MPI moves the values, numpy adds them up in the order of the group.

MPI's own reductions are free to choose an order by size and number of ranks, so their bits differ from one machine to
the next. Here every rank, or the one that owns a slice, adds the parts in rank order.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from trtllm_ext.parallel.communicator import Array, ReduceOp
from trtllm_ext.parallel.mpi_waiting import wait_asleep
from trtllm_ext.parallel.ordered_sum import reduce_in_order

# Up to so many bytes every rank gets all values whole and adds them all; above, each adds a slice of its own and hands
# it out. Measured for two ranks on shared memory, where whole values win up to here; chosen for more, where each rank
# reads all others' values.
WHOLE_BYTES = {2: 512 << 10}
WHOLE_BYTES_OF_MORE = 128 << 10
# Above, the copy costs more than it saves (two ranks, 4 MiB: a fifth more; 1 MiB: a fifth less).
ASIDE_BYTES = 2 << 20
# What ranks tell each other before a run is no larger.
RECORD_BYTES = 256
# Larger arrays go in pieces of so many bytes: bounds the scratch memory, and no count of MPI's passes 2**31.
PIECE_BYTES = 64 << 20


class Scratch:
    """Memory that is kept between operations and only grows."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def array(self, size: int, dtype: Any) -> Array:
        """`size` values, undefined; valid until the next call."""
        needed = size * dtype.itemsize
        if self._memory.size < needed:
            self._memory = np.empty(needed, np.uint8)
        return self._memory[:needed].view(dtype)


class Team:
    """One group and its MPI communicator, whose ranks are the group's in order.

    mpi: the module mpi4py.MPI. Arrays are flat, contiguous and not empty, their sizes the same on every rank.
    """

    def __init__(self, mpi: Any, comm: Any, group: tuple[int, ...], scratch: Scratch) -> None:
        self.comm, self.group, self.size, self.place = comm, group, len(group), comm.Get_rank()
        self._mpi, self._scratch = mpi, scratch
        self._whole_bytes = WHOLE_BYTES.get(self.size, WHOLE_BYTES_OF_MORE)
        self._status = mpi.Status()
        self._types = {
            np.dtype("float32"): mpi.FLOAT,
            np.dtype("float64"): mpi.DOUBLE,
            np.dtype("int32"): mpi.INT32_T,
            np.dtype("int64"): mpi.INT64_T,
        }

    def all_reduce(self, values: Array, op: ReduceOp) -> None:
        """In place. values: of a type in `ordered_sum.REDUCIBLE`, as everywhere below where values are reduced."""
        if values.nbytes <= self._whole_bytes:
            self._all_reduce_whole(values, op)
            return
        step = PIECE_BYTES // values.itemsize
        for begin in range(0, values.size, step):
            self._all_reduce_by_slices(values[begin : begin + step], op)

    def _all_reduce_whole(self, values: Array, op: ReduceOp) -> None:
        kind, size = self._types[values.dtype], values.size
        if self.size == 2:
            other = self._scratch.array(size, values.dtype)
            self._swap(values, other, kind)
            # Not into the values, which the other process has just read: measured, to add into them takes twice as
            # long as to add elsewhere and copy (64 to 512 KiB).
            reduce_in_order((values, other) if self.place == 0 else (other, values), other, op)
            np.copyto(values, other)
            return
        parts = self._scratch.array(self.size * size, values.dtype)
        self.comm.Allgather([values, size, kind], [parts, size, kind])
        reduce_in_order(parts.reshape(self.size, size), values, op)  # type: ignore[arg-type]

    def _all_reduce_by_slices(self, values: Array, op: ReduceOp) -> None:
        kind, ends = (
            self._types[values.dtype],
            [values.size * place // self.size for place in range(self.size + 1)],
        )
        counts = [end - begin for begin, end in pairwise(ends)]
        own, share = values[ends[self.place] : ends[self.place + 1]], counts[self.place]
        if self.size == 2:
            other = values[ends[1 - self.place] : ends[2 - self.place]]
            received = self._scratch.array(share, values.dtype)
            self._swap(other, received, kind)
            # Up to what fits in caches neither added into the values, as above, nor sent from there.
            total = received if values.nbytes <= ASIDE_BYTES else own
            reduce_in_order((own, received) if self.place == 0 else (received, own), total, op)
            self._swap(total, other, kind)
            if total is received:
                np.copyto(own, received)
            return
        parts = self._scratch.array(self.size * share, values.dtype)
        places = [place * share for place in range(self.size)]
        self.comm.Alltoallv([values, counts, ends[:-1], kind], [parts, [share] * self.size, places, kind])
        reduce_in_order(parts.reshape(self.size, share), own, op)  # type: ignore[arg-type]
        self.comm.Allgatherv(self._mpi.IN_PLACE, [values, counts, ends[:-1], kind])

    def _swap(self, mine: Array, theirs: Array, kind: Any) -> None:
        """Send `mine` to the other one of two ranks, receive `theirs`. Raises MPI's error if its size differs."""
        peer = 1 - self.place
        self.comm.Sendrecv(
            [mine, mine.size, kind], peer, 0, [theirs, theirs.size, kind], peer, 0, self._status
        )
        if self._status.Get_count(kind) != theirs.size:
            raise self._mpi.Exception(self._mpi.ERR_TRUNCATE)

    def reduce_scatter(self, values: Array, part: Array, op: ReduceOp) -> None:
        """values: (ranks * share,); part: (share,), may be this rank's place in `values`."""
        kind, share = self._types[values.dtype], part.size
        if values.nbytes <= PIECE_BYTES:
            self._reduce_scatter(values, part, op, kind)
            return
        rows, step = values.reshape(self.size, share), PIECE_BYTES // (self.size * values.itemsize)
        for begin in range(0, share, step):
            piece = np.ascontiguousarray(rows[:, begin : begin + step]).reshape(-1)
            self._reduce_scatter(piece, part[begin : begin + step], op, kind)

    def _reduce_scatter(self, values: Array, part: Array, op: ReduceOp, kind: Any) -> None:
        share = part.size
        if self.size == 2:
            received = self._scratch.array(share, values.dtype)
            own = values[self.place * share : (self.place + 1) * share]
            self._swap(values[(1 - self.place) * share : (2 - self.place) * share], received, kind)
            reduce_in_order((own, received) if self.place == 0 else (received, own), part, op)
            return
        parts = self._scratch.array(values.size, values.dtype)
        self.comm.Alltoall([values, share, kind], [parts, share, kind])
        reduce_in_order(parts.reshape(self.size, share), part, op)  # type: ignore[arg-type]

    def broadcast(self, values: Array) -> None:
        """values: (size,) of any type; those of the group's first rank come to be everyone's."""
        flat = values.view(np.uint8)
        for begin in range(0, flat.size, PIECE_BYTES):
            piece = flat[begin : begin + PIECE_BYTES]
            self.comm.Bcast([piece, piece.size, self._mpi.BYTE], 0)

    def all_gather(self, values: Array, gathered: Array) -> None:
        """values: (size,) of any type; gathered: (ranks * size,)."""
        if values.dtype not in self._types:
            # Types that MPI does not know, some of which have no buffer interface either.
            values, gathered = values.view(np.uint8), gathered.view(np.uint8)
        kind, size = self._types.get(values.dtype, self._mpi.BYTE), values.size
        if gathered.nbytes <= PIECE_BYTES or values.nbytes < 2**30:
            own = gathered[self.place * size : (self.place + 1) * size]
            if np.may_share_memory(values, gathered):
                own[...] = values
                self.comm.Allgather(self._mpi.IN_PLACE, [gathered, size, kind])
            else:
                given, taken = [values, size, kind], [gathered, size, kind]
                if values.nbytes <= RECORD_BYTES:
                    wait_asleep(self.comm.Iallgather(given, taken))
                else:
                    self.comm.Allgather(given, taken)
            return
        rows, step = gathered.reshape(self.size, size), max(1, PIECE_BYTES // (self.size * values.itemsize))
        for begin in range(0, size, step):
            piece = values[begin : begin + step]
            received = self._scratch.array(self.size * piece.size, values.dtype)
            self.comm.Allgather([piece, piece.size, kind], [received, piece.size, kind])
            rows[:, begin : begin + step] = received.reshape(self.size, piece.size)
