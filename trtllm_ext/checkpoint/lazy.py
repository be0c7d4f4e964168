"""A checkpoint's whole weights, one at a time: each is read, joined over the ranks and checked when it is asked for."""

from __future__ import annotations

import os

import numpy.typing as npt

from trtllm_ext.checkpoint.directory import checksums, open_checkpoint, problem_of
from trtllm_ext.checkpoint.sharding import join_weight, splits, whole_config
from trtllm_ext.checkpoint.weights import expected_weights
from trtllm_ext.errors import CheckpointError


class LazyCheckpoint:
    """A checkpoint directory of any number of ranks, of which nothing stays in memory but the files' headers.

    config: of a single rank. shapes: of every whole weight by name.
    Cost of opening: the headers of all ranks' files. Raises CheckpointError for whatever `load_checkpoint` refuses, but
    for damaged values, which are refused when they are read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        config, file = open_checkpoint(path)
        ranks = config.mapping.world_size
        self._files = [file, *(open_checkpoint(path, rank=rank)[1] for rank in range(1, ranks))]
        self._sums = [dict(zip(file, checksums(file) or [], strict=False)) for file in self._files]
        self._splits = splits(config)
        self.config = whole_config(config)
        self.shapes = expected_weights(self.config)
        self._checked: set[str] = set()

    def values(self, name: str) -> npt.NDArray:
        """A whole weight: a view of the mapped file of one rank, or an array put together of several.

        Its values are compared with their checksum and looked through for NaN and infinity the first time.
        """
        if name not in self._checked:
            for file, sums in zip(self._files, self._sums, strict=True):
                problem = problem_of(name, file[name], sums.get(name))
                file.release_pages(name)
                if problem is not None:
                    raise CheckpointError(f"{file.path}: {problem}.")
            self._checked.add(name)
        try:
            return join_weight(name, self._splits[name], [file[name] for file in self._files])
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def release_pages(self, name: str) -> None:
        """Let the system take back the pages of one weight; they are read again when touched."""
        for file in self._files:
            file.release_pages(name)
