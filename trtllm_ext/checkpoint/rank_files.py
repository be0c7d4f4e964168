"""The weight files of all ranks: written together in one pass over whole weights, and told apart when read.

Where there is more than one, each file says in its metadata which rank's it is, and of which checkpoint: an id made
of the config and of every checksum, so that equal checkpoints have equal ids. config.json has it too.
"""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from trtllm_ext.checkpoint.config import ModelConfig
from trtllm_ext.checkpoint.dtypes import weight_dtype
from trtllm_ext.checkpoint.safetensors_file import SafetensorsFile
from trtllm_ext.checkpoint.safetensors_writer import (
    CHECKSUMS,
    WRITEBACK_BYTES,
    SafetensorsWriter,
    checksum_seed,
)
from trtllm_ext.checkpoint.sharding import Split, splits
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError

CHECKPOINT_ID = "checkpoint_id"
_ID_DIGITS = 32
# Below that, asking the disk to write costs more than it gains.
_LEAST_WRITEBACK_BYTES = 1 << 20
_TOGETHER = "Copy all files of one conversion together, or convert the model again."


def rank_file(rank: int) -> str:
    return f"rank{rank}.safetensors"


def deal(values: npt.NDArray, start: int, split: Split) -> Iterator[tuple[int, npt.NDArray]]:
    """What each rank gets of a piece of a whole weight: (rank, flat contiguous values), in the order of its part.

    values: flat, elements `start` to `start + values.size` of the weight in row-major order. Runs that lie in the
    piece as a whole are copied together, one array a rank; others are views.
    """
    period = split.run * split.ranks
    head = min(values.size, -start % period)
    middle = head + (values.size - head) // period * period
    yield from _runs(values[:head], start, split)
    if middle > head:
        turns = values[head:middle].reshape(-1, split.ranks, split.run)
        yield from enumerate(np.ascontiguousarray(turns.swapaxes(0, 1)).reshape(split.ranks, -1))
    yield from _runs(values[middle:], start + middle, split)


def _runs(values: npt.NDArray, start: int, split: Split) -> Iterator[tuple[int, npt.NDArray]]:
    begin = 0
    while begin < values.size:
        turn, done = divmod(start + begin, split.run)
        end = begin + split.run - done
        yield turn % split.ranks, values[begin:end]
        begin = end


class RankFiles:
    """Writes the weight files of all ranks of a config, dealing out whole weights piece by piece.

    Two threads of its own, however many ranks there are, compute checksums and have the disk write what it has.
    Use as a context manager; without `finish` the files are incomplete.
    Raises OSError from the file system and CheckpointError when the data does not fit what was announced.
    Memory: two pieces and their copies by rank.
    """

    def __init__(self, directory: Path, config: ModelConfig) -> None:
        self._config, self._dtype = config, weight_dtype(config.dtype)
        self._splits = splits(config)
        self._waiting = list(self._splits)[::-1]
        self._sums: list[Future[list[int]]] = []
        # Of the piece before the one at hand.
        self._summed: Future[None] = Future()
        self._summed.set_result(None)
        self._checker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checksum")
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writeback")
        self._writers: list[SafetensorsWriter] = []
        try:
            self._open(directory)
        except BaseException:
            self._close()
            raise

    def _open(self, directory: Path) -> None:
        shapes, ranks = expected_weights(self._config), self._config.mapping.world_size
        sums = [["0" * 8] * len(shapes)] * ranks
        for rank, metadata in enumerate(self._metadata(sums, "0" * _ID_DIGITS)):
            writer = SafetensorsWriter(
                directory / rank_file(rank),
                shapes,
                self._dtype,
                metadata,
                disk=self._disk,
                writeback_bytes=max(WRITEBACK_BYTES // ranks, _LEAST_WRITEBACK_BYTES),
            )
            self._writers.append(writer)

    def _metadata(self, sums: list[list[str]], checkpoint_id: str) -> Iterator[dict[str, str]]:
        """Of each rank's file. All strings have a fixed width, so that the header can be written again in place."""
        ranks = self._config.mapping.world_size
        for rank in range(ranks):
            metadata = {"format": "np", CHECKSUMS: " ".join(sums[rank])}
            if ranks > 1:
                metadata |= {"rank": f"{rank}", "world_size": f"{ranks}", CHECKPOINT_ID: checkpoint_id}
            yield metadata

    def write(self, name: str, pieces: Iterable[npt.NDArray]) -> None:
        """Write the next weight from pieces of the whole in row-major order, each of the config's type.

        A piece may still be read while the next one is asked for, not any more when the one after that is; so it must
        not be overwritten with the next one's values.
        """
        if not self._waiting or self._waiting.pop() != name:
            raise CheckpointError(f"{name} is written out of the announced order.")
        split = self._splits[name]
        size, start = math.prod(split.whole), 0
        # Changed by the checker's thread only. What all ranks hold whole has one sum for all.
        sums = [checksum_seed(name, self._dtype, split.part)] * split.ranks
        for piece in pieces:
            if piece.dtype != self._dtype or start + piece.size > size:
                raise CheckpointError(
                    f"{name} gives {piece.dtype.name} values beyond {self._dtype.name} {split.whole}."
                )
            summed = self._write_piece(piece, start, split, sums)
            self._summed.result()
            self._summed = summed
            start += piece.size
        if start < size:
            raise CheckpointError(
                f"{name} ends {size - start} values before its shape {split.whole} is full."
            )
        self._sums.append(self._checker.submit(list, sums))

    def _write_piece(self, piece: npt.NDArray, start: int, split: Split, sums: list[int]) -> Future[None]:
        bits = np.ascontiguousarray(piece).reshape(-1).view(f"u{self._dtype.itemsize}")
        dealt = list(deal(bits, start, split))
        summed = self._checker.submit(_add_checksums, sums, dealt)
        for rank, values in dealt:
            for writer in self._writers if split.ranks == 1 else (self._writers[rank],):
                writer.feed(values)
        return summed

    def finish(self) -> tuple[int, str | None]:
        """Complete the files; returns their bytes in all, and the checkpoint's id where there are several ranks.

        Raises CheckpointError when a weight is not written.
        """
        if self._waiting:
            raise CheckpointError(f"{self._waiting[-1]} and {len(self._waiting) - 1} more are not written.")
        ranks = self._config.mapping.world_size
        sums = [[f"{of.result()[rank % len(of.result())]:08x}" for of in self._sums] for rank in range(ranks)]
        text = "\n".join([self._config.to_json(), *(" ".join(each) for each in sums)])
        checkpoint_id = hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]
        every = zip(self._writers, self._metadata(sums, checkpoint_id), strict=True)
        num_bytes = sum(writer.finish(metadata) for writer, metadata in every)
        return num_bytes, checkpoint_id if ranks > 1 else None

    def __enter__(self) -> RankFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._checker.shutdown()
        self._disk.shutdown()
        for writer in self._writers:
            writer.close()


def _add_checksums(sums: list[int], dealt: list[tuple[int, npt.NDArray]]) -> None:
    for rank, values in dealt:
        sums[rank] = zlib.crc32(values.view(np.uint8).data, sums[rank])


def open_rank_file(
    directory: str | os.PathLike[str], config: ModelConfig, checkpoint_id: str | None
) -> SafetensorsFile:
    """The weight file of the config's rank, whose header is checked.

    checkpoint_id: what config.json says, None where it says nothing: of a single rank, or written before there were
    ids. Then only what the file says of itself counts.
    Raises CheckpointError for a file that is missing or damaged, and for one of another rank, world size or checkpoint
    than its config.json's.
    """
    path, mapping = Path(directory) / rank_file(config.mapping.rank), config.mapping
    if mapping.world_size > 1 and not path.exists():
        raise CheckpointError(
            f"{path} does not exist: the weights of rank {mapping.rank} of {mapping.world_size}. {_TOGETHER}"
        )
    file = SafetensorsFile(path)
    _check_origin(file, config, checkpoint_id)
    return file


def _check_origin(file: SafetensorsFile, config: ModelConfig, checkpoint_id: str | None) -> None:
    stored = file.metadata
    mapping = config.mapping
    if checkpoint_id is not None and CHECKPOINT_ID not in stored:
        raise CheckpointError(
            f"{file.path} does not say which of {mapping.world_size} ranks it is for: it is of a checkpoint of a "
            f"single rank, or another program saved it. {_TOGETHER}"
        )
    found = stored.get("world_size", f"{mapping.world_size}")
    if found != f"{mapping.world_size}":
        raise CheckpointError(
            f"{file.path} is of a checkpoint of {found} rank(s), its config.json of one of {mapping.world_size}. "
            f"{_TOGETHER}"
        )
    if stored.get("rank", f"{mapping.rank}") != f"{mapping.rank}":
        raise CheckpointError(
            f"{file.path} holds the weights of rank {stored['rank']}, not of rank {mapping.rank}. {_TOGETHER}"
        )
    if stored.get(CHECKPOINT_ID) != checkpoint_id:
        raise CheckpointError(
            f"{file.path} is of another checkpoint than config.json: its {CHECKPOINT_ID} is "
            f"{stored.get(CHECKPOINT_ID)}, not {checkpoint_id}. {_TOGETHER}"
        )
