"""Reading a checkpoint of any number of ranks as a whole, or as a rank of any other number."""

from __future__ import annotations

import os

from trtllm_ext.checkpoint.directory import Checkpoint, load_checkpoint, load_config
from trtllm_ext.checkpoint.sharding import join_weight, splits, with_ranks
from trtllm_ext.errors import CheckpointError, ConfigError


def load_whole(path: str | os.PathLike[str], *, allow_nan: bool = False) -> Checkpoint:
    """The whole model of a checkpoint directory, with the config of a single rank.

    Weights that are whole in a file are read-only views of it; others are put together in memory.
    Cost: every rank's file is read and checked. Raises CheckpointError for whatever `load_checkpoint` refuses, of any
    rank, and for ranks that do not agree.
    """
    return load_resharded(path, 1, allow_nan=allow_nan)


def load_resharded(
    path: str | os.PathLike[str], tp_size: int, rank: int = 0, *, allow_nan: bool = False
) -> Checkpoint:
    """A checkpoint directory as rank `rank` of `tp_size` would have it, whatever number of ranks it was written for.

    Weights are views of the mapped files where a part lies in one of them regularly (also not contiguous ones), else
    arrays; besides what is returned, one whole weight is in memory at a time.
    Cost: every rank's file is read and checked, unless tp_size is the checkpoint's own. Raises CheckpointError as
    `load_whole` does, and for a tp_size that the model does not split over or a rank outside it.
    """
    stored = load_config(path)
    try:
        config = with_ranks(stored, tp_size, rank)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    stored_ranks = stored.mapping.world_size
    if tp_size == stored_ranks:
        return load_checkpoint(path, rank=rank, allow_nan=allow_nan)
    ranks = [load_checkpoint(path, rank=each, allow_nan=allow_nan).weights for each in range(stored_ranks)]
    taken = splits(config)
    weights = {}
    for name, stored_split in splits(stored).items():
        try:
            whole = join_weight(name, stored_split, [each[name] for each in ranks])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        part = taken[name].take(whole, rank)
        # A view of a whole that was put together here would keep all of it.
        weights[name] = part.copy() if part.base is whole and stored_split.ranks > 1 else part
        weights[name].flags.writeable = False
    return Checkpoint(config, weights)
